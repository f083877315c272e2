"""One image file of any kind -> RGB pixels, and the paper's resize and centre crop."""

import io
import warnings
from pathlib import Path

import numpy as np
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


class ImageError(UserError):
    """A file that is no image, is broken, or is too large to be decoded safely."""


def load_image(path_or_bytes: str | Path | bytes) -> np.ndarray:
    """Decode JPEG, PNG, WebP, GIF (first frame), BMP, TIFF or PNM, of any colour mode, to upright RGB: uint8 (height, width, 3).

    Transparent pixels are laid over white, 16 bits are scaled to 8, and the EXIF orientation is applied. Not for several threads at once:
    it sets the process's warning filters.

    Raises:
      ImageError: not an image, a broken one, or more than `PIL.Image.MAX_IMAGE_PIXELS` pixels.
      UserError: the file cannot be read.
    """
    if isinstance(path_or_bytes, bytes):
        name, data = "the image", path_or_bytes
    else:
        name = str(path_or_bytes)
        try:
            data = Path(path_or_bytes).read_bytes()
        except OSError as error:
            raise UserError(f"cannot read {name}: {error.strerror}") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata, which does not concern the pixels
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as image:
                upright = _UPRIGHT.get(_orientation(image))
                rgb = _to_rgb(image)
                return np.asarray(rgb if upright is None else rgb.transpose(upright))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        limit = Image.MAX_IMAGE_PIXELS or 0
        raise ImageError(f"{name} has more than {limit:,} pixels, the limit against decompression bombs; scale it down first") from None
    except Image.UnidentifiedImageError:
        raise ImageError(f"{name} is not an image of a known format") from None
    except Exception as error:  # Pillow's decoders raise nearly every exception there is on a broken file
        raise ImageError(f"{name} is a broken image: {error}") from None


def resize_and_crop(image: np.ndarray, size: int) -> np.ndarray:
    """Shorter side to `size`, then the centre: uint8 (height, width, C) -> uint8 (size, size, C), C = 1 or 3 (paper, section 2).

    Bicubic and antialiased. The centre square is cut out and scaled in one step: as scaling first, but the centre is exact where whole
    pixels would be half a pixel off. An image of that size already comes back unchanged.
    """
    height, width, channels = image.shape
    if (height, width) == (size, size):
        return image
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    picture = Image.fromarray(image if channels == 3 else image[:, :, 0])
    picture = picture.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    return np.asarray(picture).reshape(size, size, channels)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; broken EXIF counts as none, since the pixels may be fine."""
    try:
        return image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # as above: any exception
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
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
