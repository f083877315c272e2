"""Any image file becomes the same upright RGB pixels a viewer shows."""

import io
import struct
import zlib
from pathlib import Path

import cykooz_resizer as fast
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from alexnet_jax.errors import UserError
from alexnet_jax.images import INTERPOLATIONS, ImageError, Resize, load_image, load_resized

COLOURS = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[255, 255, 0], [0, 255, 255], [255, 0, 255]]], np.uint8)


def encode(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(pixels: np.ndarray, depth: int, colour_type: int) -> bytes:
    """A PNG written by hand, for the kinds that Pillow does not write: pixels (height, width, channels) of `depth` bits."""

    def block(tag: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data))

    rows = b"".join(b"\0" + row.astype(">u2" if depth == 16 else np.uint8).tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], depth, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + block(b"IHDR", header) + block(b"IDAT", zlib.compress(rows)) + block(b"IEND", b"")


@pytest.mark.parametrize("kind", ["png", "bmp", "tiff", "ppm", "webp"])
def test_lossless_formats_keep_every_pixel(kind, tmp_path):
    data = encode(Image.fromarray(COLOURS), kind, **({"lossless": True} if kind == "webp" else {}))
    np.testing.assert_array_equal(load_image(data), COLOURS)
    (tmp_path / "image").write_bytes(data)  # the contents tell the format, not the name
    np.testing.assert_array_equal(load_image(tmp_path / "image"), COLOURS)
    assert load_image(str(tmp_path / "image")).dtype == np.uint8


def test_jpeg():
    blocks = np.repeat(np.repeat(COLOURS, 16, 0), 16, 1)
    decoded = load_image(encode(Image.fromarray(blocks), "jpeg", quality=95, subsampling=0))
    assert np.abs(decoded[8::16, 8::16].astype(int) - COLOURS).max() <= 3


def test_heic():
    """A file that pillow-heif wrote: red and green above blue, 96 x 64 pixels."""
    path = Path(__file__).with_name("three_colours.heic")
    decoded = load_image(path).astype(int)
    assert decoded.shape == (64, 96, 3)
    for colour, part in (((220, 30, 30), (0, 0)), ((30, 200, 30), (0, 1)), ((30, 30, 220), (1, 0)), ((30, 30, 220), (1, 1))):
        block = decoded.reshape(2, 32, 2, 48, 3)[part[0], 4:-4, part[1], 4:-4]
        assert np.abs(block - colour).max() <= 3
    with pytest.raises(ImageError, match="broken"):
        load_image(path.read_bytes()[:-5])


def test_grey_and_bilevel():
    grey = np.array([[0, 100, 255]], np.uint8)
    np.testing.assert_array_equal(load_image(encode(Image.fromarray(grey), "png")), np.repeat(grey[..., None], 3, -1))
    bilevel = encode(Image.fromarray(grey > 50), "png")
    np.testing.assert_array_equal(load_image(bilevel)[0, :, 0], [0, 255, 255])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    store = {  # how a camera held so would have stored COLOURS
        1: lambda x: x,
        2: np.fliplr,
        3: lambda x: np.rot90(x, 2),
        4: np.flipud,
        5: lambda x: x.transpose(1, 0, 2),
        6: lambda x: np.rot90(x, 1),  # a viewer turns it clockwise
        7: lambda x: np.rot90(x, 2).transpose(1, 0, 2),
        8: lambda x: np.rot90(x, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(store(COLOURS)))
    for kind, options in (("png", {}), ("tiff", {}), ("tiff", {"compression": "tiff_lzw"}), ("webp", {"lossless": True})):
        np.testing.assert_array_equal(load_image(encode(stored, kind, exif=exif, **options)), COLOURS)
    blocks = Image.fromarray(np.repeat(np.repeat(np.asarray(stored), 64, 0), 64, 1))
    expected = np.repeat(np.repeat(COLOURS, 64, 0), 64, 1)
    small = load_resized(encode(blocks, "jpeg", quality=95, subsampling=0, exif=exif), Resize(16, "warp"))  # decoded at a quarter
    assert np.abs(small.astype(int) - Resize(16, "warp")(expected)).mean() < 1
    # AVIF last: Pillow takes the orientation out of the Exif that it was given.
    for kind, options in (("jpeg", {"quality": 95, "subsampling": 0}), ("avif", {"quality": 95, "subsampling": "4:4:4"})):
        assert np.abs(load_image(encode(blocks, kind, exif=exif, **options)).astype(int) - expected).mean() < 1


def test_exif_of_a_jpeg_and_broken_exif():
    blocks = Image.fromarray(np.repeat(np.repeat(COLOURS, 16, 0), 16, 1))
    exif = Image.Exif()
    exif[0x0112] = 6
    assert load_image(encode(blocks, "jpeg", exif=exif)).shape == (48, 32, 3)
    assert load_image(encode(blocks, "jpeg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")).shape == (32, 48, 3)


def test_cmyk():
    inks = np.array([[[0, 255, 255, 0], [255, 0, 255, 0], [0, 0, 0, 255], [0, 0, 0, 0]]], np.uint8)
    expected = [[255, 0, 0], [0, 255, 0], [0, 0, 0], [255, 255, 255]]
    np.testing.assert_array_equal(load_image(encode(Image.fromarray(inks, "CMYK"), "tiff"))[0], expected)
    blocks = Image.fromarray(np.repeat(np.repeat(inks, 16, 0), 16, 1), "CMYK")
    jpeg = load_image(encode(blocks, "jpeg", quality=95, subsampling=0))  # with Adobe's inverted inks
    assert np.abs(jpeg[8, 8::16].astype(int) - expected).max() <= 3


def test_sixteen_bits_are_scaled_not_clipped():
    deep = np.array([[0, 257, 400, 32896, 65535]], np.uint16)
    expected, high_bytes = [0, 1, 2, 128, 255], [0, 1, 1, 128, 255]  # ours for grey, Pillow's own for colour
    for kind in ("png", "tiff"):
        np.testing.assert_array_equal(load_image(encode(Image.fromarray(deep), kind))[0], np.repeat(expected, 3).reshape(5, 3))
    pgm = b"P5 5 1 65535\n" + deep.astype(">u2").tobytes()
    np.testing.assert_array_equal(load_image(pgm)[0, :, 0], expected)
    colour = np.stack([deep, deep[:, ::-1], deep], -1)
    np.testing.assert_array_equal(load_image(png(colour, 16, 2))[0, :, 0], high_bytes)
    np.testing.assert_array_equal(load_image(png(colour, 16, 2))[0, :, 1], high_bytes[::-1])
    opaque = np.stack([deep, np.full_like(deep, 65535)], -1)
    np.testing.assert_array_equal(load_image(png(opaque, 16, 4))[0, :, 2], high_bytes)


def tiff(values, zero_is_white=False, signed=False):
    """A grey TIFF of one strip."""
    height, width = values.shape
    tags = [(256, width), (257, height), (258, 8 * values.itemsize), (259, 1), (262, 0 if zero_is_white else 1), (273, 8), (277, 1)]
    tags += [(278, height), (279, values.nbytes), (339, 2 if signed else 1)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return struct.pack("<2sHI", b"II", 42, 8 + values.nbytes) + values.tobytes() + struct.pack("<H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize("kind", ["<u1", "<u2"])
def test_a_tiff_may_say_that_zero_is_white(kind):
    values = np.array([[0, 51, 255]], kind) * (1 if kind == "<u1" else 257)
    np.testing.assert_array_equal(load_image(tiff(values.astype(kind)))[0, :, 0], [0, 51, 255])
    np.testing.assert_array_equal(load_image(tiff(values.astype(kind), zero_is_white=True))[0, :, 0], [255, 204, 0])


@pytest.mark.parametrize("kind", ["<u4", "<i4", "<i2"])
def test_pixels_without_a_range_are_refused(kind):
    """Numbers of 0 to 255 in 32 bits would be black, larger ones than 65,535 and negative ones white."""
    with pytest.raises(ImageError, match="floating-point, signed and 32-bit pixels have no defined range; convert them to 8 or 16 bits"):
        load_image(tiff(np.array([[0, 100, 255]], kind), signed=kind[1] == "i"))


def test_transparency_lies_over_white():
    rgba = np.array([[[200, 0, 0, 255], [200, 0, 0, 0], [0, 0, 0, 51]]], np.uint8)
    expected = [[200, 0, 0], [255, 255, 255], [204, 204, 204]]
    np.testing.assert_array_equal(load_image(encode(Image.fromarray(rgba), "png"))[0], expected)
    grey = np.array([[[100, 255], [100, 0]]], np.uint8)
    np.testing.assert_array_equal(load_image(encode(Image.fromarray(grey), "png"))[0], [[100] * 3, [255] * 3])
    deep = encode(Image.fromarray(np.array([[0, 25700]], np.uint16)), "png", transparency=0)
    np.testing.assert_array_equal(load_image(deep)[0, :, 0], [255, 100])
    keyed = encode(Image.fromarray(COLOURS), "png", transparency=(255, 0, 0))  # one colour of an RGB image is transparent
    np.testing.assert_array_equal(load_image(keyed)[0], [[255, 255, 255], [0, 255, 0], [0, 0, 255]])


def test_palette():
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    assert Image.open(io.BytesIO(encode(image, "png"))).mode == "P"
    np.testing.assert_array_equal(load_image(encode(image, "png"))[0], [[10, 20, 30], [40, 50, 60], [70, 80, 90]])
    np.testing.assert_array_equal(load_image(encode(image, "png", transparency=1))[0], [[10, 20, 30], [255, 255, 255], [70, 80, 90]])


def test_first_frame_of_an_animation():
    first, second = Image.new("RGB", (4, 3), (255, 0, 0)), Image.new("RGB", (4, 3), (0, 0, 255))
    animated = encode(first, "gif", save_all=True, append_images=[second])
    np.testing.assert_array_equal(load_image(animated), np.broadcast_to(np.uint8([255, 0, 0]), (3, 4, 3)))


def test_broken_files_are_named(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"<html>404 not found</html>")
    with pytest.raises(ImageError, match=r"photo\.jpg is not an image"):
        load_image(path)
    whole = encode(Image.effect_noise((64, 64), 90), "jpeg")
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match=r"photo\.jpg is a broken image: .*truncated"):
        load_image(path)
    path.write_bytes(b"")
    with pytest.raises(ImageError, match=r"photo\.jpg is not an image"):
        load_image(path)
    with pytest.raises(ImageError, match="broken image: floating-point"):
        load_image(encode(Image.fromarray(np.ones((2, 2), np.float32)), "tiff"))
    for missing in (tmp_path / "none.jpg", tmp_path):
        with pytest.raises(UserError, match=f"cannot read {missing}: (No such file|Is a directory)") as caught:
            load_image(missing)
        assert not isinstance(caught.value, ImageError)  # --skip-corrupt must not swallow a disk that fails


def test_decompression_bomb(monkeypatch):
    """Pillow warns from the limit on, where photographs are by now, and raises at twice the limit."""
    assert 2 * Image.MAX_IMAGE_PIXELS == 178_956_970
    for kind in ("png", "jpeg"):
        data = encode(Image.new("RGB", (25, 20)), kind)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
        assert load_image(data).shape == (20, 25, 3)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
        with pytest.raises(ImageError, match="more than 400 pixels"):
            load_image(data)


@pytest.mark.parametrize(("height", "width"), [(80, 60), (60, 80), (20, 32), (60, 60)])
def test_resize_is_resize_then_centre_crop(height, width):
    rng = np.random.default_rng(0)
    image = np.asarray(Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize((width, height), Image.Resampling.BICUBIC))
    size, scale = 30, 30 / min(height, width)
    full = np.asarray(Image.fromarray(image).resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC))
    top, left = (full.shape[0] - size) // 2, (full.shape[1] - size) // 2
    cropped = Resize(size)(image)
    assert cropped.shape == (size, size, 3)
    assert cropped.dtype == np.uint8
    assert np.abs(cropped.astype(int) - full[top : top + size, left : left + size]).max() <= 1


def test_resize_is_antialiased_and_keeps_grey():
    checkerboard = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)[..., None]
    small = Resize(16)(checkerboard)
    assert small.shape == (16, 16, 1)
    assert np.abs(small.astype(int) - 127).max() <= 3  # plain sampling would give 0 or 255
    assert Resize(64)(checkerboard) is checkerboard


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_resize_is_pillows_to_a_grey_level_and_the_same_on_every_cpu(interpolation, monkeypatch):
    photo = load_image(photograph("china.jpg", 500, 375))
    for image in (photo, photo[..., :1]):
        small = Resize(256, interpolation=interpolation)(image)
        picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
        peer = picture.resize((256, 256), Image.Resampling[interpolation.upper()], box=(62.5, 0, 437.5, 375))
        assert np.abs(small.astype(int) - np.asarray(peer).reshape(small.shape)).mean() < 0.3
        with monkeypatch.context() as patch:
            plain = fast.Resizer()
            plain.cpu_extensions = fast.CpuExtensions.none
            patch.setattr(fast, "Resizer", lambda plain=plain: plain)
            np.testing.assert_array_equal(Resize(256, interpolation=interpolation)(image), small)


def test_resize_takes_the_centre():
    image = np.zeros((20, 60, 3), np.uint8)
    image[:, 20:40] = 200
    np.testing.assert_array_equal(Resize(20)(image), np.full((20, 20, 3), 200))
    np.testing.assert_array_equal(Resize(20)(image.transpose(1, 0, 2)), np.full((20, 20, 3), 200))


def test_the_result_of_a_path_object_and_a_string_is_one(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encode(Image.fromarray(COLOURS), "png"))
    np.testing.assert_array_equal(load_image(str(path)), load_image(Path(path)))


# metadata


def with_chunks(data: bytes, *chunks: tuple[bytes, bytes], damage: bool = False) -> bytes:
    """A PNG with more chunks before its pixels."""
    blocks = [struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) ^ damage) for kind, body in chunks]
    at = data.index(b"IDAT") - 4
    return data[:at] + b"".join(blocks) + data[at:]


def test_metadata_of_a_png_does_not_hide_its_pixels():
    exif = Image.Exif()
    exif[0x0112] = 6
    rgba = np.dstack([COLOURS, np.full(COLOURS.shape[:2], 255, np.uint8)])
    plain, turned = encode(Image.fromarray(rgba), "png"), encode(Image.fromarray(np.rot90(COLOURS).copy()), "png", exif=exif)
    text = zlib.compress(b"x" * 5_000_000)
    large = [(b"zTXt", b"Raw\0\0" + text), (b"iTXt", b"XML\0\1\0\0\0" + text), (b"iCCP", b"icc\0\0" + text)]
    for data in (plain, turned):
        for chunk in large:
            np.testing.assert_array_equal(load_image(with_chunks(data, chunk)), COLOURS)
        np.testing.assert_array_equal(load_image(with_chunks(data, *large, *[(b"tEXt", b"k\0" + b"y" * 2_000_000)] * 40)), COLOURS)
        np.testing.assert_array_equal(load_image(with_chunks(data, (b"tEXt", b"k\0v"), damage=True)), COLOURS)
    with pytest.raises(ImageError, match="broken"):
        load_image(with_chunks(plain, large[0])[:-30])


# large JPEGs


def photograph(name: str, width: int, height: int) -> bytes:
    from sklearn.datasets import load_sample_image

    return encode(Image.fromarray(load_sample_image(name)).resize((width, height), Image.Resampling.LANCZOS), "jpeg", quality=92)


@pytest.mark.parametrize("name", ["china.jpg", "flower.jpg"])
@pytest.mark.parametrize(("width", "height"), [(640, 427), (375, 501), (2050, 1367)])
@pytest.mark.parametrize("how", ["shorter-side", "warp"])
def test_a_reduced_jpeg_is_within_a_grey_level(name, width, height, how, monkeypatch):
    data, asked = photograph(name, width, height), []
    decode = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *args, **options: asked.append(options["min_factor"]) or decode(*args, **options))
    for size in (24, 48, 90, 256):
        resize = Resize(size, how)
        small, full = load_resized(data, resize), resize(load_image(data))
        assert np.abs(small.astype(int) - full).mean() < 1
        assert asked[-2:] == [max([f for f in (1, 2, 4, 8) if min(width, height) / f >= 2 * size], default=1), 1]
        grey = load_resized(data, resize, channels=1)
        assert grey.shape == (size, size, 1)


def test_a_photograph_of_a_telephone():
    """108 megapixels: more than Pillow's limit, less than twice it."""
    data = encode(Image.new("RGB", (12000, 9000), (200, 30, 30)), "jpeg")
    small = load_resized(data, Resize(64))
    assert np.abs(small.astype(int) - [200, 30, 30]).max() <= 2


def test_a_jpeg_with_stray_bytes_is_read():
    """libjpeg warns of them; ImageNet has such files."""
    whole = encode(Image.effect_noise((64, 64), 90), "jpeg")
    end = whole.rindex(b"\xff\xd9")
    np.testing.assert_array_equal(load_image(whole[:end] + b"\0\0\0" + whole[end:]), load_image(whole))


def test_warp_keeps_the_whole_picture():
    image = np.zeros((20, 60, 3), np.uint8)
    image[:, 20:40] = 200
    warped = Resize(30, "warp", "nearest")(image)
    np.testing.assert_array_equal(warped, np.repeat(np.uint8([0, 200, 0]), 10)[None, :, None].repeat(30, 0).repeat(3, 2))
    assert "warped to 30x30 by nearest" in Resize(30, "warp", "nearest").protocol()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    assert len({Resize(16, interpolation=name)(noise).tobytes() for name in ("bicubic", "bilinear", "lanczos", "box", "nearest")}) == 5
