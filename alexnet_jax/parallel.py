"""Devices and processes: how many there are, and what lies on which.

State is replicated over devices, a batch is cut evenly among them, gradients and sums are averaged or added over the axis `DEVICES`.
This is the only file that knows of devices and processes; turns.py, the loop and the commands call it.

The step is sharded by `jax.pmap`. Since JAX 0.10 `pmap` is `jit` over `shard_map` underneath; JAX keeps it in maintenance mode and has not
deprecated it as of 0.12. What would replace it here, with the batch's two leading axes as one:

    jax.jit(jax.shard_map(step, mesh=mesh, in_specs=(P(), P(), P(DEVICES)), out_specs=P()), donate_argnums=0)
"""

import os
import platform
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import psutil
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from alexnet_jax import cpu
from alexnet_jax.errors import UserError

DEVICES = "devices"  # the name of the pmap axis
# Members of one program where a config doesn't say. On CPUs, programs of 7, of 8 in turn and of 32 are equally fast, but a larger one takes
# longer to compile and more memory for activations (docs/performance.md). Small networks need some at once, since starting an operation
# costs time too.
MEMBERS_PER_PROGRAM = 8


def start() -> None:
    """Prepare JAX before the first computation: device-specific settings, and the persistent compilation cache.

    The cache lies in the user's cache directory; JAX_COMPILATION_CACHE_DIR moves it.
    """
    cpu.prepare()
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alexnet_jax" / "xla"
        jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def process() -> tuple[int, int]:
    """(index of this process, number of processes)."""
    return jax.process_index(), jax.process_count()


def describe() -> list[str]:
    """The devices of all processes, for the record: `4 x gpu NVIDIA H100`, `1 x cpu AMD EPYC (2 cores)`, a line for each kind."""
    kinds = Counter(
        f"{device.platform} {f'{cpu_model()} ({cores()} cores)' if device.platform == 'cpu' else device.device_kind}"
        for device in jax.devices()
    )
    return [f"{count} x {kind}" for kind, count in kinds.items()]


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_model() -> str:
    """The CPU's name, as its maker or the system has it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def check_batch_size(batch_size: int, field: str) -> None:
    """Raise `UserError` unless the devices can share the batch evenly."""
    if batch_size < 1:
        raise UserError(f"{field} is {batch_size}; it must be positive")
    if batch_size % jax.device_count():
        near = max(1, round(batch_size / jax.device_count())) * jax.device_count()
        raise UserError(f"{field}={batch_size} can't be shared evenly by {jax.device_count()} devices; {near} can")


def even(batch_size: int) -> int:
    """The next batch size that all devices share evenly."""
    return -(-batch_size // jax.device_count()) * jax.device_count()


def replicate(tree: Any) -> Any:
    """Put every leaf whole on every device of this process."""
    mesh = Mesh(np.array(jax.local_devices()), (DEVICES,))
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def shard(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Cut this process's batch among its devices: (B, ...) -> (devices, B / devices, ...)."""
    return jax.tree.map(lambda leaf: leaf.reshape(jax.local_device_count(), -1, *leaf.shape[1:]), batch)


def over_devices_train(train_step: Callable) -> Any:
    """pmap of `(state, controls, batch) -> (state, metrics)`: state and controls are replicated, the batch is sharded.

    The state's buffers are reused.
    """
    return jax.pmap(train_step, axis_name=DEVICES, in_axes=(None, None, 0), out_axes=None, donate_argnums=0)


def over_devices_predict(log_probs: Callable) -> Callable:
    """pmap of `(params, hyper, images) -> (M, B / devices, classes)`, which gives (M, devices, B / devices, classes)."""
    return jax.pmap(log_probs, axis_name=DEVICES, in_axes=(None, None, 0), out_axes=1)


def over_devices_sum(sums: Callable) -> Callable:
    """pmap of `(log_probs, batch) -> sums`, added up over the devices already; log_probs as `over_devices_predict` gives them."""
    return jax.pmap(sums, axis_name=DEVICES, in_axes=(1, 0), out_axes=None)


def gather(log_probs: jax.Array) -> np.ndarray:
    """(M, devices, B / devices, classes) on the devices -> (M, B, classes) on the host."""
    shares = np.asarray(log_probs)
    return shares.reshape(shares.shape[0], -1, shares.shape[-1])


def memory() -> int:
    """Bytes that this process's programs can use on each of its devices. On CPUs: its share of the host's memory that is free now."""
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in jax.local_devices()]
    known = [limit for limit in limits if limit]
    return min(known) if known else int(min(psutil.virtual_memory().available, _left_of_cgroups())) // jax.local_device_count()


def _left_of_cgroups(process: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> float:
    """Bytes of the host's memory that a container or a Slurm job leaves this process (Linux's cgroups, version 2); inf where none does."""
    left = float("inf")
    try:
        own = next(line.removeprefix("0::/") for line in process.read_text().splitlines() if line.startswith("0::/"))
    except (OSError, StopIteration):
        return left
    for group in (root / own, *(root / own).parents):
        if not group.is_relative_to(root):
            break
        try:
            limit, used = ((group / f"memory.{name}").read_text() for name in ("max", "current"))
            files = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())["inactive_file"]
            left = min(left, float(limit) - (int(used) - int(files)))  # what is cached of files is given back where it is needed
        except (OSError, ValueError, KeyError):  # no limit here: "max", or no such file
            pass
    return left


def wait_on_virtual_devices(results: Any) -> Any:
    """The results; where one CPU stands for several devices, as in the tests, wait until they are ready.

    There each device's share of a sum over devices holds a thread until all shares have come. Two programs at once would need more threads
    than there are, and could wait for each other for ever.
    """
    return jax.block_until_ready(results) if jax.default_backend() == "cpu" and jax.local_device_count() > 1 else results
