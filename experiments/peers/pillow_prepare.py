"""Preparing photographs with Pillow alone, as the peer of `prepare`: a JPEG -> a JPEG of 256x256 pixels."""

import io
from collections.abc import Sequence

from PIL import Image

from alexnet_jax.prepare.records import JPEG_QUALITY


def centre_in_one_step(size: int, paths: Sequence[str]) -> int:
    """What `prepare` makes, without its statistics and records; returns how many were made."""
    for path in paths:
        with Image.open(path) as image:
            width, height = image.size
            side = min(width, height)
            left, top = (width - side) / 2, (height - side) / 2
            box = (left, top, left + side, top + side)
            _encode(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC, box=box))
    return len(paths)


def as_torchvision(size: int, paths: Sequence[str]) -> int:
    """ImageFolder's loader, Resize(size), CenterCrop(size): the whole picture bilinearly, then the centre; returns how many were made."""
    for path in paths:
        with open(path, "rb") as file:
            image = Image.open(file).convert("RGB")
        width, height = image.size
        scale = size / min(width, height)
        image = image.resize((int(width * scale), int(height * scale)), Image.Resampling.BILINEAR)
        left, top = round((image.width - size) / 2), round((image.height - size) / 2)
        _encode(image.crop((left, top, left + size, top + size)))
    return len(paths)


def _encode(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "jpeg", quality=JPEG_QUALITY)
    return buffer.getvalue()
