"""Devices and processes: how many there are, and how state and batches are distributed over them.

Each device holds the whole state and an equal share of each batch. Gradients are averaged, and sums are added, over the axis `DEVICES`.
No other file deals with devices and processes; turns.py, the loop and the commands call this one:

    parallel.start()                                   # once, before any computation
    state, controls = parallel.replicate((state, controls))
    state, metrics = parallel.over_devices_train(train_step)(state, controls, parallel.shard(batch))

The step is sharded by `jax.pmap`. Since JAX 0.10 `pmap` is `jit` over `shard_map` underneath; JAX keeps it in maintenance mode and has not
deprecated it as of 0.12. This would replace it here, with the batch's two leading axes joined to one:

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
# The number of members in one program if the config doesn't set it. On CPUs, programs of 7, 8 and 32 members are equally fast, but a larger
# one takes longer to compile and more memory for activations (docs/performance.md). One member at a time would be slow for small networks,
# since the start of each operation takes time too.
MEMBERS_PER_PROGRAM = 8


def start() -> None:
    """Prepare JAX before the first computation: device-specific settings, and the persistent compilation cache.

    The cache is in the user's cache directory; the environment variable JAX_COMPILATION_CACHE_DIR moves it.

    Raises:
      UserError: there is no device of the kind that JAX_PLATFORMS names.
    """
    cpu.prepare()
    # A run's draws come from its seeds. These variables of the environment, set for other programs, would change them in silence.
    jax.config.update("jax_enable_x64", False)
    jax.config.update("jax_default_prng_impl", "threefry2x32")
    jax.config.update("jax_threefry_partitionable", True)
    home = os.path.expanduser("~")  # unchanged where nothing says which it is
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ and (os.environ.get("XDG_CACHE_HOME") or home != "~"):
        cache = Path(os.environ.get("XDG_CACHE_HOME") or f"{home}/.cache") / "alexnet_jax" / "xla"
        jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    try:
        jax.devices()
    except Exception as error:  # JAX's backends each have their own
        reason, named = (str(error).splitlines() or [type(error).__name__])[0], os.environ.get("JAX_PLATFORMS", "")
        raise UserError(f"JAX finds no device with JAX_PLATFORMS={named!r} ({reason}); unset it, or set it to cpu, cuda or tpu") from None


def process() -> tuple[int, int]:
    """(index of this process, number of processes)."""
    return jax.process_index(), jax.process_count()


def describe() -> list[str]:
    """The devices of all processes, a line for each kind: `4 x gpu NVIDIA H100`, `1 x cpu AMD EPYC (2 cores)`."""
    kinds = Counter(
        f"{device.platform} {f'{cpu_model()} ({cores()} cores)' if device.platform == 'cpu' else device.device_kind}"
        for device in jax.devices()
    )
    return [f"{count} x {kind}" for kind, count in kinds.items()]


def cores() -> int:
    """The number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_model() -> str:
    """The name of the CPU, from its maker or from the system."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def check_batch_size(batch_size: int, field: str) -> None:
    """Refuse a batch size that the devices can't share evenly.

    Raises:
      UserError: it names a batch size near it that they can share.
    """
    if batch_size < 1:
        raise UserError(f"{field} is {batch_size}; it must be positive")
    if batch_size % jax.device_count():
        near = max(1, round(batch_size / jax.device_count())) * jax.device_count()
        raise UserError(f"{field}={batch_size} can't be shared evenly by {jax.device_count()} devices; {near} can")


def even(batch_size: int) -> int:
    """The batch size rounded up, so that all devices share it evenly."""
    return -(-batch_size // jax.device_count()) * jax.device_count()


def replicate(tree: Any) -> Any:
    """Put a whole copy of every leaf on every device of this process."""
    return jax.device_put(tree, _sharding(PartitionSpec()))


def shard(batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Put each device's share of this process's batch on it: (B, ...) -> (devices, B / devices, ...). Returns before the copy is done."""
    shares = jax.tree.map(lambda leaf: leaf.reshape(jax.local_device_count(), -1, *leaf.shape[1:]), batch)
    return jax.device_put(shares, _sharding(PartitionSpec(DEVICES)))


def local(replicated: jax.Array) -> jax.Array:
    """A replicated array as the first device of this process has it."""
    return replicated.addressable_data(0)


def _sharding(spec: PartitionSpec) -> NamedSharding:
    return NamedSharding(Mesh(np.array(jax.local_devices()), (DEVICES,)), spec)


def over_devices_train(train_step: Callable) -> Any:
    """pmap of `(state, controls, batch) -> (state, metrics)`: state and controls are replicated, the batch is sharded.

    The state's buffers are donated: the new state reuses them.
    """
    return jax.pmap(train_step, axis_name=DEVICES, in_axes=(None, None, 0), out_axes=None, donate_argnums=0)


def over_devices_predict(log_probs: Callable) -> Callable:
    """pmap of `(params, hyper, images) -> (M, B / devices, ...)`; its result is (M, devices, B / devices, ...). Both may be trees."""
    return jax.pmap(log_probs, axis_name=DEVICES, in_axes=(None, None, 0), out_axes=1)


def over_devices_sum(sums: Callable) -> Callable:
    """pmap of `(log_probs, batch) -> sums`, which adds over the devices itself. `over_devices_predict` makes the log_probs."""
    return jax.pmap(sums, axis_name=DEVICES, in_axes=(1, 0), out_axes=None)


def gather(results: Any) -> Any:
    """Results of the devices, leaves (M, devices, B / devices, ...), -> on the host, leaves (M, B, ...)."""
    shares = jax.tree.map(np.asarray, results)
    return jax.tree.map(lambda leaf: leaf.reshape(leaf.shape[0], -1, *leaf.shape[3:]), shares)


def memory() -> int:
    """Bytes that this process's programs can use on each of its devices. On CPUs: the device's share of the host's free memory."""
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in jax.local_devices()]
    known = [limit for limit in limits if limit]
    return min(known) if known else int(min(psutil.virtual_memory().available, _left_of_cgroups())) // jax.local_device_count()


def _left_of_cgroups(process: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> float:
    """Bytes that the memory limit of a container or a Slurm job leaves to this process (Linux cgroups, version 2); inf without a limit."""
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
            left = min(left, float(limit) - (int(used) - int(files)))  # the kernel frees cached files if memory is needed
        except (OSError, ValueError, KeyError):  # no limit here: "max", or no such file
            pass
    return left


def wait_on_virtual_devices(results: Any) -> Any:
    """Return the results. If one CPU acts as several devices, as in the tests, first wait until they are ready.

    On such devices, a sum over devices blocks a thread of each device until all shares have arrived. Two programs at once would need more
    threads than there are, and could wait for each other for ever.
    """
    return jax.block_until_ready(results) if jax.default_backend() == "cpu" and jax.local_device_count() > 1 else results
