"""The part `memory`: the peak memory of a training process with the full batch, ours and PyTorch's, each in its own process.

python -m experiments.benchmark memory
"""

import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from experiments.benchmark import measure
from experiments.benchmark.settings import Settings
from experiments.benchmark.table import Table

COLUMNS = {
    "network": "<9",
    "batch": "6d",
    "dtype": "<8",
    "side": "<24",
    "process MiB": "12,.0f",
    "device MiB": "11,.0f",
    "temporaries MiB": "16,.0f",
    "GFLOP": "8,.0f",
}
BATCH, STEPS = 128, 3


class Peak(NamedTuple):
    """The peak memory of a training in bytes, and the compiler's plan for one step."""

    process: int
    device: int | None  # of the first device, if it has its own memory
    temporaries: int | None = None  # bytes, beside the state and the batch
    flops: float | None = None


def run(settings: Settings, out: Path) -> None:
    batch = settings.batch(BATCH)
    title = "Peak memory of the training process, and of the device if it has its own memory"
    table = Table("memory", title, COLUMNS, settings, out)
    sides: dict[str, Callable[..., Peak]] = {"ours": peak_of_ours, "ours, train.remat": peak_of_lean}
    if measure.has_torch():
        sides["PyTorch eager"] = peak_of_torch
    for dtype in settings.dtypes:
        for variant in settings.networks:
            for side, peak in sides.items():
                measure.progress(f"{variant}, {dtype}: {side}")
                process, device, temporaries, flops = measure.in_child(peak, variant, settings.width, batch, dtype)
                table.row(
                    network=variant,
                    batch=batch,
                    dtype=dtype,
                    side=side,
                    process_MiB=process / 2**20,
                    device_MiB=device and device / 2**20,
                    temporaries_MiB=temporaries and temporaries / 2**20,
                    GFLOP=flops and flops / 1e9,
                )
    table.note("temporaries MiB and GFLOP are XLA's plan for one training step")


def peak_of_ours(variant: str, width: float, batch: int, dtype: str, remat: bool = False) -> Peak:
    """Our peak after some training steps, including compilation."""
    import jax

    from experiments.benchmark import ours

    ours.start()
    model = ours.network(variant, width, dtype=dtype).clone(remat=remat)
    step = ours.TrainStep(variant, model, "seeds=1", ours.random_batch(variant, batch))
    for _ in range(STEPS):
        step()
    statistics = jax.local_devices()[0].memory_stats()
    return Peak(peak_bytes(), statistics and statistics.get("peak_bytes_in_use"), *step.planned())


def peak_of_lean(variant: str, width: float, batch: int, dtype: str) -> Peak:
    """As `peak_of_ours`, with train.remat: activations are computed again for the gradient instead of stored."""
    return peak_of_ours(variant, width, batch, dtype, remat=True)


def peak_of_torch(variant: str, width: float, batch: int, dtype: str) -> Peak:
    """PyTorch's peak after as many training steps."""
    from alexnet_jax import host
    from experiments.benchmark import ours
    from experiments.peers import torch_train

    torch_train.start(host.cores())
    step = torch_train.Training(variant, batch, width, ours.CHANNELS[variant], ours.CLASSES[variant], dtype=dtype)
    for _ in range(STEPS):
        step()
    return Peak(peak_bytes(), torch_train.device_peak())


def peak_bytes() -> int:
    """The peak memory of this process in bytes.

    On Linux it is the kernel's high-water mark VmHWM. A child process there inherits the maximum that getrusage reports from its parent,
    so getrusage can't be used.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
