"""One image file of any kind -> RGB pixels, and how they are brought to the size of a dataset.

`prepare` and `predict` read every picture with `load_resized`, so that a network is asked about pixels as it was trained on them.
"""

import functools
import io
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

from alexnet_jax.errors import UserError

_EXIF_ORIENTATION = 0x0112
_PHOTOMETRIC = 262  # of a TIFF
_UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # by orientation: a stored (height, width, C) as it is to be seen
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x.swapaxes(0, 1)[:, ::-1],
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: x.swapaxes(0, 1)[::-1],
}
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# A large JPEG is decoded at 1/8, 1/4 or 1/2, as long as at least so many times the wanted pixels are left. At 2, what comes out differs
# from the full way by 0.3 to 0.7 grey levels on scikit-learn's two photographs; at 1 (6/8 of 500x375 for 256) by 1.0 and 2.2. And 5/8 to
# 7/8 take longer to decode than the whole: the codec has vector code for 1/2, 1/4 and 1/1 alone.
MARGIN = 2
HOW = ("shorter-side", "warp")
# The filters by which cykooz-resizer interpolates. It takes a sixth of Pillow's time and differs from it by a quarter of a grey level.
_FILTERS = {"bicubic": "catmull_rom", "bilinear": "bilinear", "lanczos": "lanczos3", "box": "box"}
INTERPOLATIONS = (*_FILTERS, "nearest")


class ImageError(UserError):
    """A file that is no image, is broken, or is too large to be decoded safely."""


class Resize(NamedTuple):
    """How a picture of any size becomes one of `size` x `size` pixels. `Resize(256)(image)` is the paper's way (section 2).

    size: pixels.
    how: `shorter-side`, scaled until the shorter side fits, then the centre; or `warp`, Caffe's way: both sides scaled, each by its factor.
    interpolation: one of INTERPOLATIONS; antialiased, but for `nearest`.
    """

    size: int
    how: str = "shorter-side"
    interpolation: str = "bicubic"

    def __call__(self, image: np.ndarray, extent: tuple[float, float] | None = None) -> np.ndarray:
        """uint8 (height, width, C) -> uint8 (size, size, C), C = 1 or 3. An image of that size already comes back unchanged.

        `extent`: height and width of the picture, where it ends within the last pixels. The centre square is cut out and scaled in one
        step: as scaling first, but the centre is exact where whole pixels would be half a pixel off. The same bytes on every CPU.
        """
        rows, columns, channels = image.shape
        if (rows, columns) == (self.size, self.size):
            return image
        import cykooz_resizer as fast  # not before: Linux on ARM has no wheel of it, and training on prepared images needs none

        filter_type = _FILTERS.get(self.interpolation)
        algorithm = fast.ResizeAlg.convolution(getattr(fast.FilterType, filter_type)) if filter_type else fast.ResizeAlg.nearest()
        height, width = extent or (rows, columns)
        side = min(width, height)
        left, top = ((width - side) / 2, (height - side) / 2) if self.how == "shorter-side" else (0.0, 0.0)
        kind = fast.PixelType.U8x3 if channels == 3 else fast.PixelType.U8
        source, made = fast.ImageData(columns, rows, kind, image.tobytes()), fast.ImageData(self.size, self.size, kind)
        box = fast.CropBox(left, top, width - 2 * left, height - 2 * top)
        fast.Resizer().resize(source, made, fast.ResizeOptions(resize_alg=algorithm, crop_box=box))
        return np.frombuffer(made.get_buffer(), np.uint8).reshape(self.size, self.size, channels)

    def protocol(self) -> str:
        """In words, for a dataset's metadata."""
        kind = self.interpolation if self.interpolation == "nearest" else f"antialiased {self.interpolation}"
        if self.how == "warp":
            return f"warped to {self.size}x{self.size} by {kind} interpolation"
        return f"shorter side to {self.size} by {kind} interpolation, then the centre {self.size}x{self.size}"


def load_image(path_or_bytes: str | Path | bytes) -> np.ndarray:
    """Decode JPEG, PNG, WebP, AVIF, HEIC, GIF (first frame), BMP, TIFF or PNM, of any colour mode: upright RGB, uint8 (height, width, 3).

    Transparent pixels are laid over white, 16 bits are scaled to 8, and the orientation is applied. Not for several threads at once:
    it sets the process's warning filters.

    Raises:
      ImageError: not an image, a broken one, or more than twice `PIL.Image.MAX_IMAGE_PIXELS` pixels.
      UserError: the file cannot be read.
    """
    return _decode(path_or_bytes).pixels


def load_resized(path_or_bytes: str | Path | bytes, resize: Resize, channels: int = 3) -> np.ndarray:
    """Decode as `load_image` does, and bring to a size: uint8 (size, size, channels); grey, where that is 1, by luminance.

    A JPEG far larger than that is decoded at a fraction of its size, see MARGIN.

    Raises: as `load_image`.
    """
    decoded = _decode(path_or_bytes, MARGIN * resize.size)
    pixels = decoded.pixels if channels == 3 else np.asarray(Image.fromarray(decoded.pixels).convert("L"))[..., None]
    return _upright(resize(pixels, (decoded.height, decoded.width)), decoded.orientation).pixels


def is_image(path: str | Path) -> bool:
    """Whether the file's contents are an image of a known format, by its first bytes; it may still be a broken one."""
    _know_heic()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Image.open(path).close()
    except Image.UnidentifiedImageError:
        return False
    except Exception:  # a broken or an enormous one, or unreadable: `load_image` will say so
        return True
    return True


def shown(path: object) -> str:
    r"""A file's name as text on one line, whatever it holds: line breaks and bytes that aren't UTF-8 are written as \n and \udcff."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(path))


class _Decoded(NamedTuple):
    """A whole picture, upright; or one at a fraction of its size, as it is stored, whose lower and right edge may lie within a pixel."""

    pixels: np.ndarray  # uint8 (rows, columns, 3)
    height: float  # of the picture in these pixels
    width: float
    orientation: int = 1  # that it still has


def _decode(path_or_bytes: str | Path | bytes, side: int | None = None) -> _Decoded:
    """`side`: pixels of the shorter side that are enough."""
    _know_heic()
    if isinstance(path_or_bytes, bytes):
        name, data = "the image", path_or_bytes
    else:
        name = shown(path_or_bytes)
        try:
            data = Path(path_or_bytes).read_bytes()
        except OSError as error:
            raise UserError(f"cannot read {name}: {error.strerror}") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata and of more than MAX_IMAGE_PIXELS
            try:
                return _decode_bytes(data, side)
            except Image.DecompressionBombError:
                raise
            except Exception:
                if (bare := _without_metadata(data)) == data:
                    raise
                return _decode_bytes(bare, side)
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise ImageError(f"{name} has more than {limit:,} pixels, the limit against decompression bombs; scale it down first") from None
    except Image.UnidentifiedImageError:
        raise ImageError(f"{name} is not an image of a known format") from None
    except Exception as error:  # Pillow's decoders raise nearly every exception there is on a broken file
        raise ImageError(f"{name} is a broken image: {error}") from None


@functools.cache
def _know_heic() -> None:
    """Let Pillow read HEIC too."""
    import pi_heif  # not before: training on prepared images needs none of it

    pi_heif.register_heif_opener()


def _decode_bytes(data: bytes, side: int | None) -> _Decoded:
    with Image.open(io.BytesIO(data)) as image:
        if image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L"):
            width, height = image.size
            eighths = next((n for n in (1, 2, 4) if side and min(width, height) * n >= 8 * side), 8)
            pixels = _decode_jpeg(data, image.mode, width, height, eighths)
            if pixels is not None:
                reduced = _Decoded(pixels, height * eighths / 8, width * eighths / 8, _orientation(image))
                return reduced if eighths < 8 else _upright(pixels, reduced.orientation)
        pixels = np.asarray(_to_rgb(image))
        return _upright(pixels, _orientation(image))  # only now: when it has loaded a TIFF, Pillow has turned it


def _upright(pixels: np.ndarray, orientation: int) -> _Decoded:
    """A whole picture."""
    turn = _UPRIGHT.get(orientation)
    pixels = pixels if turn is None else np.ascontiguousarray(turn(pixels))
    return _Decoded(pixels, *pixels.shape[:2])


def _decode_jpeg(data: bytes, mode: str, width: int, height: int, eighths: int) -> np.ndarray | None:
    """uint8 (height, width, 3); None where Pillow should try, which takes some damage in its stride."""
    smallest = {"min_height": -(-height * eighths // 8), "min_width": -(-width * eighths // 8), "min_factor": 8 / eighths}
    try:
        pixels = simplejpeg.decode_jpeg(data, "RGB" if mode == "RGB" else "GRAY", **smallest)
    except ValueError:
        return None
    return pixels if mode == "RGB" else pixels.repeat(3, -1)


def _without_metadata(data: bytes) -> bytes:
    """A PNG's chunks that its pixels need, and its orientation. Pillow refuses a picture for large or damaged texts beside it."""
    if not data.startswith(PNG_SIGNATURE):
        return data
    kept, at = [PNG_SIGNATURE], len(PNG_SIGNATURE)
    while at + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        if kind[:1].isupper() or kind in (b"tRNS", b"eXIf"):  # upper case: critical
            kept.append(data[at : at + 12 + length])
        at += 12 + length
    return b"".join(kept)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; broken EXIF counts as none, since the pixels may be fine."""
    try:
        return image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # as above: any exception
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    image.load()
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):  # of a PGM, Pillow makes 16 bits
        raise ValueError("floating-point, signed and 32-bit pixels have no defined range; convert them to 8 or 16 bits")
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow's own convert("RGB") would clip at 255
        grey = np.asarray(image).astype(np.uint32)
        if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0:  # a TIFF whose 0 is white, which Pillow turns with 8 bits alone
            grey = 65535 - grey
        if image.format == "PNG" and "transparency" in image.info:  # the one value that is transparent
            grey[grey == image.info["transparency"]] = 65535
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")  # the colour under a transparent pixel is arbitrary, so plain convert would show rubbish
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy
