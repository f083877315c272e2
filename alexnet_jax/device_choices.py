"""Every choice that depends on the kind of device that a program is compiled for, with its reason and the number that decided it.

A choice names a form for each kind of device. The forms stand where they are used, and `by_device` takes the one of the platform that the
program is compiled for, which needn't be that of this machine:

    by_device(LRN_SUMS, {"slices": _sum_of_slices, "band": _band_product}, squares)

So the choice holds for a run, for a program that is compiled ahead for a TPU elsewhere (experiments/scaling), and for an exported one. All
forms of a choice give the same numbers up to rounding, and the tests hold each pair together. RESAMPLING alone changes more than that. What
isn't chosen here is the same everywhere; cpu.py has the settings of XLA's CPU backend.

Numbers for CPUs were measured on two cores of an AMD EPYC (docs/performance.md). Numbers for TPUs are the compiler's estimates for a v5e,
128 images, bfloat16. On GPUs only the members' convolutions were compared: they keep what was measured there as a whole, unless the form
is for CPUs alone.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from jax import lax


class Choice(NamedTuple):
    """The name of a form for each kind of device."""

    cpu: str
    gpu: str
    tpu: str


# Max-pooling: strided slices and shifted comparisons, or XLA's windows with select-and-scatter for the gradient.
# CPU: slices are 10 times faster. TPU: the network's three pools take 6.9 ms with slices, whose strided reads and interleaving it has no
# instructions for, and 0.4 ms by the bytes of select-and-scatter, which has no estimate.
POOL = Choice(cpu="slices", gpu="slices", tpu="window")

# LRN's sums over neighbouring channels: a sum of shifted slices, or a product with a matrix of ones in a band.
# CPU: slices fuse into one pass, and the product would cost as much as a convolution. TPU: shifts along the lanes are slow and the product
# is nearly free: both layers and their gradients take 1.9 ms with slices, 1.2 with XLA's windows, 0.7 with the product at full precision.
LRN_SUMS = Choice(cpu="slices", gpu="slices", tpu="band")

# The sums in LRN's derivative: those of the forward pass, or again from an input that waits for the gradient.
# CPU: XLA would keep the sums, 57 MiB of the one-tower network's 1,547; again they take no measurable time. Elsewhere it wasn't tried.
LRN_DERIVATIVE = Choice(cpu="again", gpu="same", tpu="same")

# The layout of the gradient of a dense layer's input. CPU: Eigen reads the kernel several times faster along its rows.
DENSE_LAYOUT = Choice(cpu="row_major", gpu="free", tpu="free")

# The gradient of a bias, a sum over images and maps: at once, or first the rows of all images.
# CPU: maps of 55 x 55 take 28 ms at once, since XLA's loop along the units is as short as they are few, and 5 with their rows first.
BIAS_GRADIENT = Choice(cpu="rows first", gpu="at once", tpu="at once")

# Large convolutions in float32. CPU: Winograd's form is up to three times faster. Accelerators have libraries, or units, for XLA's own.
CONVOLUTION = Choice(cpu="winograd", gpu="direct", tpu="direct")

# Convolutions of few channels in float32, with their numbers in conv.py. CPU: one product of patches. On accelerators it wasn't tried.
FEW_CHANNELS = Choice(cpu="patches", gpu="direct", tpu="direct")

# XLA's convolutions of M members with kernels of their own: M of them, or one of M groups.
# CPU: M are 1.4 times faster for seven small networks. GPU: M are 1.37 times faster on an H100 for seven one-tower networks.
# TPU: a layer takes a ninth longer in groups (conv3, M = 7: 1.48 against 1.33 ms), but M of them take three times as long to compile.
MEMBERS_CONVOLUTION = Choice(cpu="unrolled", gpu="unrolled", tpu="grouped")

# XLA's convolution of two towers, which has two groups of channels: one for each group, or one with groups.
# CPU: the step of configs/photographs.py takes 16 ms with one for each group, 55 with groups. Elsewhere it wasn't tried.
TOWERS_CONVOLUTION = Choice(cpu="each", gpu="grouped", tpu="grouped")

# How the augmentation resamples (resample.py): a gather of single pixels, or products and selections. It changes the pixels, so a run keeps
# the form with which it was begun.
# CPU: the gather is about six times faster. TPU: with it the whole augmentation takes 29.7 ms, though the gather itself has no estimate,
# and without it 3.7.
RESAMPLING = Choice(cpu="gather", gpu="gather", tpu="shear")

# The same on all devices, since nothing else was better:
# - the first convolution has three channels. On TPUs, padded to 4 or 8 channels it takes 1.4 ms with its gradient, as 3x3 over blocks of 48
#   numbers (space to depth) 1.9, as it is 0.9.
# - random bits are threefry's. What JAX's `rbg` draws for an example depends on the examples beside it in its batch, so a run would draw
#   otherwise on another number of devices; all random bits of a step take less than 0.1 ms on a TPU.


def by_device(choice: Choice, forms: dict[str, Callable], *arrays: Any) -> Any:
    """`forms[name](*arrays)`, of the choice's form for the platform that the program is compiled for."""
    cpu, gpu, tpu = (forms[name] for name in choice)
    return lax.platform_dependent(*arrays, cpu=cpu, tpu=tpu, default=gpu)
