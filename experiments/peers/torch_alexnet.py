"""AlexNet's variants in PyTorch. They are written from the papers and the model files, not from alexnet_jax, so they can check it.

`parity` compares logits and gradients with it; torch_train.py trains it:

    logits = AlexNet(VARIANTS["caffenet"], classes=1000)(images)    # images (batch, 3, 227, 227)

Images have PyTorch's shape (batch, channels, height, width); their mean is already subtracted and they are already divided by the scale.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Variant:
    """The architecture of a published network, or of `small`."""

    pixels: int = 227
    filters: tuple[int, ...] = (96, 256, 384, 384, 256)
    dense: int = 4096
    kernel: int = 11
    stride: int = 4
    pad: tuple[int, int] = (0, 0)  # of the image: pixels before, pixels after, in each direction
    groups: int = 1
    norm: str = "after pool"  # or "before pool", "none"
    k: float = 2.0
    alpha: float = 1e-4
    alpha_over_size: bool = False  # divide alpha by the window's size, as Caffe and PyTorch do
    scale: float | tuple[float, ...] = 1.0  # pixels are divided by it; alpha is multiplied by its square

    def narrow(self, factor: float) -> "Variant":
        """The same network with the number of filters and units multiplied by `factor`."""
        return replace(self, filters=tuple(round(n * factor) for n in self.filters), dense=round(self.dense * factor))


_BVLC: dict[str, Any] = {"groups": 2, "k": 1.0, "alpha_over_size": True}
VARIANTS = {
    "one_tower": Variant(),
    "caffenet": Variant(**_BVLC),
    "caffe": Variant(**_BVLC, norm="before pool"),
    "paper": Variant(groups=2, norm="before pool", pixels=224, pad=(0, 3)),
    "owt": Variant(pixels=224, filters=(64, 192, 384, 256, 256), pad=(2, 2), norm="none", scale=(0.229 * 255, 0.224 * 255, 0.225 * 255)),
    "small": Variant(pixels=28, kernel=5, stride=1, pad=(2, 2), scale=70.0).narrow(0.25),
}


class AlexNet(nn.Module):
    """The network of a variant, with dropout after fc6 and fc7."""

    def __init__(self, variant: Variant, classes: int, channels: int = 3, dropout: float = 0.0) -> None:
        super().__init__()
        c1, c2, c3, c4, c5 = variant.filters
        self.variant = variant
        self.conv1 = nn.Conv2d(channels, c1, variant.kernel, variant.stride)
        self.conv2 = nn.Conv2d(c1, c2, 5, padding=2, groups=variant.groups)
        self.conv3 = nn.Conv2d(c2, c3, 3, padding=1)
        self.conv4 = nn.Conv2d(c3, c4, 3, padding=1, groups=variant.groups)
        self.conv5 = nn.Conv2d(c4, c5, 3, padding=1, groups=variant.groups)
        self.pool = nn.MaxPool2d(3, 2)
        with torch.no_grad():
            maps = self.features(torch.zeros(1, channels, variant.pixels, variant.pixels))
        self.fc6 = nn.Linear(maps[0].numel(), variant.dense)
        self.fc7 = nn.Linear(variant.dense, variant.dense)
        self.fc8 = nn.Linear(variant.dense, classes)
        self.dropout = nn.Dropout(dropout)

    def features(self, x: Tensor) -> Tensor:
        before, after = self.variant.pad
        x = torch.relu(self.conv1(F.pad(x, (before, after, before, after))))
        x = torch.relu(self.conv2(self.pool_and_norm(x)))
        x = torch.relu(self.conv3(self.pool_and_norm(x)))
        x = torch.relu(self.conv4(x))
        x = torch.relu(self.conv5(x))
        return self.pool(x)

    def pool_and_norm(self, x: Tensor) -> Tensor:
        match self.variant.norm:
            case "before pool":
                return self.pool(self.norm(x))
            case "after pool":
                return self.norm(self.pool(x))
            case _:
                return self.pool(x)

    def norm(self, x: Tensor) -> Tensor:
        v = self.variant
        assert isinstance(v.scale, float)
        return lrn(x, v.k, v.alpha * v.scale**2, 0.75, 5, v.alpha_over_size)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x).flatten(1)
        x = self.dropout(torch.relu(self.fc6(x)))
        x = self.dropout(torch.relu(self.fc7(x)))
        return self.fc8(x)


def lrn(x: Tensor, k: float, alpha: float, beta: float, size: int, alpha_over_size: bool) -> Tensor:
    """Local response normalisation over the channels of (batch, channels, height, width).

    With `alpha_over_size` it is PyTorch's function, otherwise the formula of the paper's section 3.3.
    """
    if alpha_over_size:
        return F.local_response_norm(x, size, alpha, beta, k)
    squares = F.pad(x * x, (0, 0, 0, 0, size // 2, (size - 1) // 2))
    return x / (k + alpha * squares.unfold(1, size, 1).sum(-1)) ** beta
