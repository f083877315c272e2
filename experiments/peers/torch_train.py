"""PyTorch's training, evaluation, augmentation and matrix products, written as an experienced PyTorch user would write them.

The parts of `benchmark` time it against alexnet_jax:

    step = Training("one_tower", batch=128, width=1.0, channels=3, classes=1000)
    step()    # one training step; returns when it is done

The networks are those of torch_alexnet.py, with PyTorch's own LRN layer. That layer divides alpha by the window's size, so alpha is
multiplied by it here; then both compute the same function.
"""

import functools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.peers.torch_alexnet import VARIANTS, AlexNet

STRENGTHS = ("crop", "flip", "rotation", "shift", "colour", "whitening")
LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def start(threads: int) -> None:
    """Set PyTorch's number of threads, its seed, and what makes it fast on GPUs.

    That is TensorFloat-32, which JAX uses there by default too, and the choice of cuDNN's algorithms by their time.
    """
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("high")  # cuDNN's convolutions use TensorFloat-32 without it
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)


def precision(dtype: str) -> torch.autocast:
    """Automatic mixed precision for a dtype other than float32: weights, gradients and the update stay float32."""
    return torch.autocast(DEVICE.type, getattr(torch, dtype), enabled=dtype != "float32")


def graph_of(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The function by torch.compile, with code of its own for each shape: otherwise, from the second shape on it is for all, and slower."""
    torch._dynamo.config.recompile_limit = 64  # the ninth network of a process would run eagerly
    return torch.compile(function, dynamic=False)


def describe() -> str:
    """The name of PyTorch's device."""
    return torch.cuda.get_device_name() if DEVICE.type == "cuda" else "cpu"


def synchronise() -> None:
    """Wait until the GPU has finished its work."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def layouts(variant: str) -> tuple[str, ...]:
    """The memory layouts that may be the fastest for a network."""
    return ("channels_last",) if variant == "one_tower" else tuple(LAYOUTS)


@functools.cache
def compiles() -> bool:
    """Whether torch.compile works here: on CPUs it needs a C++ compiler."""
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(2, device=DEVICE))
    except Exception as error:  # whatever its compiler raises
        print(f"torch.compile doesn't work on this machine, so it isn't measured: {str(error).splitlines()[0]}")
        return False
    return True


def network(
    variant: str, width: float, classes: int, channels: int, lrn: bool = True, dropout: float = 0.5, layout: str = "channels_last"
) -> AlexNet:
    """The network of a variant with PyTorch's own LRN layer."""
    chosen = VARIANTS[variant].narrow(width)
    chosen = replace(chosen, alpha=5 * chosen.alpha, alpha_over_size=True) if lrn else replace(chosen, norm="none")
    return AlexNet(chosen, classes, channels, dropout).to(DEVICE, memory_format=LAYOUTS[layout])  # type: ignore[call-overload]


def random_images(variant: str, batch: int, channels: int, layout: str) -> Tensor:
    """Uniformly random pixels, with the mean subtracted and divided by the variant's scale: (batch, channels, pixels, pixels)."""
    pixels, scale = VARIANTS[variant].pixels, torch.as_tensor(VARIANTS[variant].scale).reshape(1, -1, 1, 1)
    return ((255 * torch.rand(batch, channels, pixels, pixels) - 127.5) / scale).to(DEVICE, memory_format=LAYOUTS[layout])


class Training:
    """A training step of `members` networks, one after the other, on one prepared batch of float images; a call returns when it is done."""

    def __init__(
        self,
        variant: str,
        batch: int,
        width: float,
        channels: int,
        classes: int,
        *,
        members: int = 1,
        lrn: bool = True,
        layout: str = "channels_last",
        compiled: bool = False,
        dtype: str = "float32",
    ) -> None:
        self.images = random_images(variant, batch, channels, layout)
        self.labels = torch.randint(classes, (batch,), device=DEVICE)
        self.networks = [network(variant, width, classes, channels, lrn, layout=layout) for _ in range(members)]
        self.optimizers = [torch.optim.SGD(net.parameters(), lr=1e-2, momentum=0.9, weight_decay=5e-4, fused=True) for net in self.networks]
        self._forward: list[Callable[[Tensor], Tensor]] = [graph_of(net) if compiled else net for net in self.networks]
        self._dtype = dtype

    def __call__(self) -> None:
        for forward, optimizer in zip(self._forward, self.optimizers, strict=True):
            optimizer.zero_grad(set_to_none=True)
            with precision(self._dtype):
                loss = F.cross_entropy(forward(self.images), self.labels)
            loss.backward()
            optimizer.step()
        synchronise()


class Evaluation:
    """The forward pass of a network on one prepared batch of float images; a call returns log-probabilities on the host."""

    def __init__(
        self, variant: str, batch: int, width: float, channels: int, classes: int, *, layout: str, compiled: bool, dtype: str = "float32"
    ) -> None:
        self._images = random_images(variant, batch, channels, layout)
        module = network(variant, width, classes, channels, layout=layout).eval()
        self._forward = graph_of(module) if compiled else module
        self._dtype = dtype

    def __call__(self) -> np.ndarray:
        with torch.inference_mode(), precision(self._dtype):
            return F.log_softmax(self._forward(self._images).float(), -1).cpu().numpy()


def matrix_product(a: np.ndarray, b: np.ndarray, dtype: str) -> Callable[[], None]:
    """A function that multiplies two matrices in a dtype."""
    x, y = (torch.from_numpy(array).to(DEVICE, getattr(torch, dtype)) for array in (a, b))

    def product():
        torch.mm(x, y)
        synchronise()

    return product


def layer(
    x: np.ndarray,
    kernel: np.ndarray,
    bias: np.ndarray,
    gradient: np.ndarray,
    stride: int,
    padding: int,
    layout: str,
    gradient_of_input: bool,
) -> Callable[[], None]:
    """A function that computes a convolution or a dense layer with its bias, and its gradients.

    Args:
      x: (batch, height, width, channels), or (batch, units) for a dense layer.
      kernel: (size, size, channels, filters), or (units, units).
      gradient: of the layer's result, as it lies here: channels last.
    """

    def put(array: np.ndarray, *order: int) -> Tensor:
        tensor = torch.from_numpy(array).permute(*order).to(DEVICE)
        return tensor.contiguous(memory_format=LAYOUTS[layout])

    bias_ = torch.from_numpy(bias).to(DEVICE).requires_grad_()
    if x.ndim == 4:
        inputs, weights, cotangent = put(x, 0, 3, 1, 2), put(kernel, 3, 2, 0, 1), put(gradient, 0, 3, 1, 2)
    else:
        inputs, weights, cotangent = put(x, 0, 1), put(kernel, 1, 0), put(gradient, 0, 1)
    wanted = [weights.requires_grad_(), bias_, *([inputs.requires_grad_()] if gradient_of_input else [])]

    def forward_and_backward():
        outputs = F.conv2d(inputs, weights, bias_, stride, padding) if x.ndim == 4 else F.linear(inputs, weights, bias_)
        torch.autograd.grad(outputs, wanted, cotangent)
        synchronise()

    return forward_and_backward


def normalisation(x: np.ndarray, gradient: np.ndarray, dtype: str, layout: str, compiled: bool) -> Callable[[], None]:
    """A function that computes `nn.LocalResponseNorm` and its gradient.

    Args:
      x: images (batch, height, width, channels).
      gradient: of the layer's result; the same shape.
    """

    def put(array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array).permute(0, 3, 1, 2).to(DEVICE, getattr(torch, dtype))
        return tensor.contiguous(memory_format=LAYOUTS[layout])

    norm: Callable = nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)
    if not _normalises(dtype):
        layer = norm
        norm = lambda x: layer(x.float()).to(x.dtype)  # noqa: E731
    norm = graph_of(norm) if compiled else norm
    inputs, cotangent = put(x).requires_grad_(), put(gradient)

    def forward_and_backward():
        inputs.grad = None
        norm(inputs).backward(cotangent)
        synchronise()

    return forward_and_backward


@functools.cache
def _normalises(dtype: str) -> bool:
    """Whether PyTorch has LRN for a dtype. On CPUs it has none for bfloat16, so there the peer converts to float32 and back."""
    try:
        F.local_response_norm(torch.zeros(1, 8, 2, 2, dtype=getattr(torch, dtype), device=DEVICE), 5)
    except NotImplementedError:
        return False
    return True


def stream(x: np.ndarray, gradient: np.ndarray, dtype: str) -> Callable[[], None]:
    """A function that reads two arrays and writes two: the least memory traffic of a layer with its gradient."""
    inputs, outputs = [[torch.from_numpy(a).to(DEVICE, getattr(torch, dtype)) for a in (x, gradient)] for _ in range(2)]

    def scale():
        for source, target in zip(inputs, outputs, strict=True):
            torch.mul(source, 1.5, out=target)
        synchronise()

    return scale


# Augmentation


def augment(images: Tensor, size: int, strengths: dict[str, float], std: float) -> Tensor:
    """uint8 images (batch, channels, height, width) -> float views, with the operations of alexnet_jax/augment.py on the whole batch.

    One bilinear sampling does crop, flip, rotation and shift; then mean subtraction (127.5), whitening, and PCA colour along the channels.
    """
    batch, channels, height, _ = images.shape
    device, margin = images.device, height - size

    def draw() -> Tensor:
        return torch.rand(batch, device=device)

    def offset() -> Tensor:  # from the centre, whole pixels
        crop = torch.floor(draw() * (strengths["crop"] * margin + 1)) - (strengths["crop"] * margin) // 2
        return crop + torch.round((2 * draw() - 1) * strengths["shift"] * size)

    angle = torch.deg2rad((2 * draw() - 1) * strengths["rotation"])
    mirror = torch.where(draw() < strengths["flip"], -1.0, 1.0)
    cos, sin, zoom = torch.cos(angle), torch.sin(angle), size / height  # coordinates go from -1 to 1 in both images
    odd = margin % 2  # with an odd margin the centre crop is half a pixel before the middle
    rows = [
        torch.stack([zoom * cos * mirror, -zoom * sin, (2 * offset() - odd) / height], -1),
        torch.stack([zoom * sin * mirror, zoom * cos, (2 * offset() - odd) / height], -1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), [batch, channels, size, size], align_corners=False)
    views = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False) - 127.5
    deviation, mean = torch.std_mean(views, (1, 2, 3), correction=0, keepdim=True)
    standardised = std * (views - mean) / deviation.clamp(min=(channels * size * size) ** -0.5)
    views = torch.lerp(views, standardised, strengths["whitening"])
    return views + strengths["colour"] * std * torch.randn(batch, channels, 1, 1, device=device)


def batch_augmentation(images: np.ndarray, size: int, strengths: dict[str, float], std: float) -> Callable[[], Tensor]:
    """A function that applies `augment` to one batch (batch, height, width, channels)."""
    ready = torch.from_numpy(images).permute(0, 3, 1, 2).to(DEVICE)

    def views() -> Tensor:
        result = augment(ready, size, strengths, std)
        synchronise()
        return result

    return views


def torchvision_augmentation(images: np.ndarray, size: int, strengths: dict[str, float], std: float) -> Callable[[], Tensor] | None:
    """A function that does the same with torchvision.transforms.v2, image by image.

    None if torchvision isn't installed, or was built for another version of PyTorch.
    """
    try:
        from torchvision.transforms import InterpolationMode, v2
    except (ImportError, RuntimeError):
        return None
    warp = v2.Compose(
        [
            v2.RandomCrop(size),
            v2.RandomHorizontalFlip(strengths["flip"]),
            v2.RandomAffine(strengths["rotation"], translate=(strengths["shift"],) * 2, interpolation=InterpolationMode.BILINEAR),
            v2.ToDtype(torch.float32),
        ]
    )
    ready = list(torch.from_numpy(images).permute(0, 3, 1, 2).to(DEVICE))

    def view(image: Tensor) -> Tensor:
        warped = warp(image) - 127.5
        deviation, mean = torch.std_mean(warped, correction=0)
        whitened = torch.lerp(warped, std * (warped - mean) / deviation, strengths["whitening"])
        return whitened + strengths["colour"] * std * torch.randn(len(image), 1, 1, device=DEVICE)

    def views() -> Tensor:
        result = torch.stack([view(image) for image in ready])
        synchronise()
        return result

    return views


def device_peak() -> int | None:
    """The peak memory of the GPU in bytes; None on CPUs."""
    return torch.cuda.max_memory_allocated() if DEVICE.type == "cuda" else None
