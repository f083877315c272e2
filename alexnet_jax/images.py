"""One image file of any kind -> RGB pixels, and how they are brought to the size of a dataset.

`prepare` and `predict` read every picture with `load_resized`, so that a network is asked about pixels as it was trained on them.
"""

import io
import struct
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

from alexnet_jax.errors import UserError

_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEIC = tuple(b"ftyp" + brand for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"))
# A large JPEG is decoded at 1/8, 1/4 or 1/2, as long as at least so many times the wanted pixels are left. At 2, what comes out differs
# from the full way by 0.3 to 0.7 grey levels on scikit-learn's two photographs; at 1 (6/8 of 500x375 for 256) by 1.0 and 2.2. And 5/8 to
# 7/8 take longer to decode than the whole: the codec has vector code for 1/2, 1/4 and 1/1 alone.
MARGIN = 2
HOW = ("shorter-side", "warp")
INTERPOLATIONS = ("bicubic", "bilinear", "lanczos", "box", "nearest")


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

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """uint8 (height, width, C) -> uint8 (size, size, C), C = 1 or 3. An image of that size already comes back unchanged."""
        height, width, channels = image.shape
        if (height, width) == (self.size, self.size):
            return image
        picture = Image.fromarray(image if channels == 3 else image[:, :, 0])
        return np.asarray(self.picture(picture, width, height)).reshape(self.size, self.size, channels)

    def picture(self, picture: Image.Image, width: float, height: float) -> Image.Image:
        """The same of a Pillow image, which holds a picture of `width` x `height` pixels in its upper left.

        The centre square is cut out and scaled in one step: as scaling first, but the centre is exact where whole pixels would be half a
        pixel off.
        """
        if picture.size == (self.size, self.size):
            return picture
        side = min(width, height)
        left, top = ((width - side) / 2, (height - side) / 2) if self.how == "shorter-side" else (0.0, 0.0)
        box = (left, top, width - left, height - top)
        return picture.resize((self.size, self.size), Image.Resampling[self.interpolation.upper()], box=box)

    def protocol(self) -> str:
        """In words, for a dataset's metadata."""
        kind = self.interpolation if self.interpolation == "nearest" else f"antialiased {self.interpolation}"
        if self.how == "warp":
            return f"warped to {self.size}x{self.size} by {kind} interpolation"
        return f"shorter side to {self.size} by {kind} interpolation, then the centre {self.size}x{self.size}"


def load_image(path_or_bytes: str | Path | bytes) -> np.ndarray:
    """Decode JPEG, PNG, WebP, AVIF, GIF (first frame), BMP, TIFF or PNM, of any colour mode, to upright RGB: uint8 (height, width, 3).

    Transparent pixels are laid over white, 16 bits are scaled to 8, and the orientation is applied. Not for several threads at once:
    it sets the process's warning filters.

    Raises:
      ImageError: not an image, a broken one, or more than twice `PIL.Image.MAX_IMAGE_PIXELS` pixels.
      UserError: the file cannot be read.
    """
    decoded = _decode(path_or_bytes)
    return np.asarray(decoded.turn(decoded.picture))


def load_resized(path_or_bytes: str | Path | bytes, resize: Resize, channels: int = 3) -> np.ndarray:
    """Decode as `load_image` does, and bring to a size: uint8 (size, size, channels); grey, where that is 1, by luminance.

    A JPEG far larger than that is decoded at a fraction of its size, see MARGIN.

    Raises: as `load_image`.
    """
    decoded = _decode(path_or_bytes, MARGIN * resize.size)
    picture = decoded.picture if channels == 3 else decoded.picture.convert("L")
    small = decoded.turn(resize.picture(picture, decoded.width, decoded.height))
    return np.asarray(small).reshape(resize.size, resize.size, channels)


def is_image(path: str | Path) -> bool:
    """Whether the file's contents are an image of a known format, by its first bytes; it may still be a broken one."""
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
    """A picture, upright; or one at a fraction of its size, as it is stored, whose right and lower edge may lie within a pixel."""

    picture: Image.Image  # RGB
    width: float  # of the picture in these pixels
    height: float
    upright: Image.Transpose | None = None  # what is still to turn it

    def turn(self, picture: Image.Image) -> Image.Image:
        return picture if self.upright is None else picture.transpose(self.upright)


def _decode(path_or_bytes: str | Path | bytes, side: int | None = None) -> _Decoded:
    """`side`: pixels of the shorter side that are enough."""
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
        if data[4:12] in HEIC:
            raise ImageError(f"{name} is HEIC, which can't be decoded here; convert it to JPEG") from None
        raise ImageError(f"{name} is not an image of a known format") from None
    except Exception as error:  # Pillow's decoders raise nearly every exception there is on a broken file
        raise ImageError(f"{name} is a broken image: {error}") from None


def _decode_bytes(data: bytes, side: int | None) -> _Decoded:
    with Image.open(io.BytesIO(data)) as image:
        if image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L"):
            width, height = image.size
            eighths = next((n for n in (1, 2, 4) if side and min(width, height) * n >= 8 * side), 8)
            pixels = _decode_jpeg(data, image.mode, width, height, eighths)
            if pixels is not None:
                stored = Image.fromarray(pixels)
                rgb = stored if stored.mode == "RGB" else stored.convert("RGB")  # which would copy
                decoded = _Decoded(rgb, width * eighths / 8, height * eighths / 8, _UPRIGHT.get(_orientation(image)))
                return decoded if eighths < 8 else _upright(decoded)
        rgb = _to_rgb(image)
        # The orientation only now: when it has loaded a TIFF, Pillow has turned it.
        return _upright(_Decoded(rgb, *rgb.size, _UPRIGHT.get(_orientation(image))))


def _upright(decoded: _Decoded) -> _Decoded:
    picture = decoded.turn(decoded.picture)
    return _Decoded(picture, *picture.size)


def _decode_jpeg(data: bytes, mode: str, width: int, height: int, eighths: int) -> np.ndarray | None:
    """uint8 (height, width, 3) or (height, width); None where Pillow should try, which takes some damage in its stride."""
    smallest = {"min_height": -(-height * eighths // 8), "min_width": -(-width * eighths // 8), "min_factor": 8 / eighths}
    try:
        return simplejpeg.decode_jpeg(data, "RGB" if mode == "RGB" else "GRAY", **smallest).squeeze(-1 if mode == "L" else ())
    except ValueError:
        return None


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
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow's own convert("RGB") would clip at 255
        grey = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((grey.clip(0, 65535) + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no defined range")
    if image.has_transparency_data:
        layer = image.convert("RGBA")  # the colour under a transparent pixel is arbitrary, so plain convert would show rubbish
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")
