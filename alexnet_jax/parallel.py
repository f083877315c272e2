"""Devices: how many there are, and how state and batches are distributed over them.

Each device gets an equal share of each batch. It holds the whole state, or, where members are divided over devices, that of its members
(turns.py has the choice). Gradients are averaged, and sums are added, over the axis `DEVICES`. The devices may be those of several
processes; cluster.py is about how processes meet, exchange.py about what they say to each other, and no other file deals with any of it:

    with parallel.started(place):                      # once, before any computation; `start()` where there is one process for sure
        state, controls = parallel.place((state, controls))
        state, metrics = parallel.over_devices_train(train_step)(state, controls, parallel.shard(batch))

The step is sharded by `jax.pmap`. Since JAX 0.10 `pmap` is `jit` over `shard_map` underneath; JAX keeps it in maintenance mode and has not
deprecated it as of 0.12. Devices that aren't here can't be given to `pmap`: for these, `over_mesh_train` writes the same step as `jit` over
`shard_map`, which could replace it everywhere.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from alexnet_jax import cluster, cpu, exchange, host
from alexnet_jax.cluster import Place
from alexnet_jax.errors import UserError

DEVICES = "devices"  # the name of the pmap axis
CALL = "call"  # where there are several processes, the leaf of batches and metrics by which one calls all to an exchange
# The number of members in one program on a GPU or TPU, if the config doesn't set it. A larger program takes longer to compile and more
# memory for activations; one member alone may be too small for the device.
MEMBERS_PER_PROGRAM = 8


def members_per_program() -> int:
    """The number of members in one program if the config doesn't set it.

    On CPUs it is one: a program of several isn't faster there, takes longer to compile, and needs more memory (docs/performance.md).
    """
    return 1 if jax.default_backend() == "cpu" else MEMBERS_PER_PROGRAM


def start() -> None:
    """Prepare JAX before the first computation: device-specific settings, and the persistent compilation cache.

    The cache is in the user's cache directory; the environment variable JAX_COMPILATION_CACHE_DIR moves it.

    Raises:
      UserError: there is no device of the kind that JAX_PLATFORMS names.
    """
    _configure()
    _find_devices()


@contextmanager
def started(place: Place) -> Iterator[None]:
    """`start`, and meet the other processes, if there are any. An error at one of them ends all.

    Raises:
      UserError: as `start`; or the others can't be met.
    """
    if place.processes == 1:
        start()
        yield
        return
    _configure()
    beats = cluster.join(place)
    try:
        _find_devices()
        yield
        exchange.any_says(False)  # nobody leaves before all have come to the end
        beats.leave()
    except BaseException as error:
        beats.fail(error)


def _configure() -> None:
    cpu.prepare()
    # A run's draws come from its seeds. These variables of the environment, set for other programs, would change them in silence.
    jax.config.update("jax_enable_x64", False)
    jax.config.update("jax_default_prng_impl", "threefry2x32")
    jax.config.update("jax_threefry_partitionable", True)
    jax.config.update("jax_random_seed_offset", 0)
    # A test process of JAX 0.11.2 once died of a segmentation fault while it read this cache on a CPU. None did in 174 processes of JAX
    # 0.10.2, 0.11.2 and 0.12.0.1 that read programs of steps back 1,028 times, nor in five runs of all `newest` tests by 0.11.2 with a full
    # cache. So no version is kept from it. An entry that is cut or damaged costs a warning and a compilation.
    home = os.path.expanduser("~")  # unchanged where nothing says which it is
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ and (os.environ.get("XDG_CACHE_HOME") or home != "~"):
        cache = Path(os.environ.get("XDG_CACHE_HOME") or f"{home}/.cache") / "alexnet_jax" / "xla"
        jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _find_devices() -> None:
    try:
        jax.devices()
    except Exception as error:  # JAX's backends each have their own
        reason, named = (str(error).splitlines() or [type(error).__name__])[0], os.environ.get("JAX_PLATFORMS", "")
        raise UserError(f"JAX finds no device with JAX_PLATFORMS={named!r} ({reason}); unset it, or set it to cpu, cuda or tpu") from None


class Calls:
    """Between steps: whether a process has called all to an exchange. Where there is one process, always.

    Whoever wants an exchange puts a number above 0 into its next batch (`shard`); the step adds these numbers up with its other sums. Every
    process reads the sum of one step while the next one computes, so that nobody waits, and all learn of a call at the same step.
    """

    def __init__(self) -> None:
        self._newest: Any = None

    def heard(self, metrics: dict[str, Any]) -> bool:
        """Take the call out of a step's metrics; whether there was one in those of the step before."""
        if not exchange.several():
            return True
        before, self._newest = self._newest, metrics.pop(CALL)
        return before is not None and int(before) > 0


def describe() -> list[str]:
    """The devices of all processes, a line for each kind: `4 x gpu NVIDIA H100`, `1 x cpu AMD EPYC (2 cores)`."""
    kinds = Counter(
        f"{device.platform} {f'{host.cpu_model()} ({host.cores()} cores)' if device.platform == 'cpu' else device.device_kind}"
        for device in jax.devices()
    )
    return [f"{count} x {kind}" for kind, count in kinds.items()]


def check_batch_size(batch_size: int, field: str, pieces: int = 1, devices: int | None = None) -> None:
    """Refuse a batch size that `devices`, by default all there are, can't share evenly, or whose shares can't be cut evenly into `pieces`.

    Raises:
      UserError: it names a batch size near it that they can share.
    """
    if batch_size < 1:
        raise UserError(f"{field} is {batch_size}; it must be positive")
    if pieces < 1:
        raise UserError(f"train.accumulate is {pieces}; it must be positive")
    devices = devices or jax.device_count()
    if batch_size % (each := devices * pieces):
        near = max(1, round(batch_size / each)) * each
        cut = f" and cut into train.accumulate={pieces} pieces" if pieces > 1 else ""
        raise UserError(f"{field}={batch_size} can't be shared evenly by {devices} devices{cut}; {near} can")


def even(batch_size: int) -> int:
    """The batch size rounded up, so that all devices share it evenly."""
    return -(-batch_size // jax.device_count()) * jax.device_count()


def count_devices() -> int:
    """The number of devices of all processes."""
    return jax.device_count()


def place(tree: Any, divided: bool = False) -> Any:
    """Put a whole copy of every leaf on every device; or divide leaves (M, ...) over the devices, to (devices, M / devices, ...).

    Scalars are never divided.
    """
    if not divided:
        return _put(tree, PartitionSpec())
    own = [jax.devices().index(device) for device in jax.local_devices()]

    def put(leaf):
        if not np.ndim(leaf):
            return _put(leaf, PartitionSpec())
        return _put(np.reshape(leaf, (jax.device_count(), -1, *leaf.shape[1:]))[own], PartitionSpec(DEVICES))

    return jax.tree.map(put, tree)


def within_reach(tree: Any, divided: bool) -> Any:
    """What `place` put on the devices, such that each process can have all of it with `on_host`. An exchange if it is divided."""
    if not (divided and exchange.several()):
        return tree
    # Leaf by leaf, since the devices hold each for a moment.
    return jax.tree.map(lambda leaf: multihost_utils.process_allgather(leaf, tiled=True) if np.ndim(leaf) else leaf, tree)


def on_host(tree: Any, divided: bool) -> Any:
    """What `place` was given, as numpy arrays."""
    return jax.tree.map(lambda leaf: _joined(np.asarray(leaf), divided), tree)


def _joined(leaf: Any, divided: bool) -> Any:
    return leaf.reshape(-1, *leaf.shape[2:]) if divided and np.ndim(leaf) else leaf


def member(tree: Any, number: int, each: int, divided: bool) -> Any:
    """One member's leaves (...) of what `place` put on the devices; a device has `each` members. An exchange if it is divided."""
    if not divided:
        return jax.tree.map(lambda leaf: leaf.addressable_data(0)[number] if np.ndim(leaf) else leaf, tree)
    return jax.tree.map(lambda leaf: leaf[number // each, number % each] if np.ndim(leaf) else leaf, within_reach(tree, divided))


def shard(batch: dict[str, np.ndarray], calls: Callable[[], bool] = lambda: False) -> dict[str, jax.Array]:
    """Put each device's share of this process's batch on it: (B, ...) -> (devices, B / devices, ...). Returns before the copy is done.

    `calls` says whether this process wants an exchange; where there is one process, it isn't asked.
    """
    shares = jax.tree.map(lambda leaf: leaf.reshape(jax.local_device_count(), -1, *leaf.shape[1:]), batch)
    if exchange.several():
        shares[CALL] = np.full(jax.local_device_count(), calls(), np.int32)
    return _put(shares, PartitionSpec(DEVICES))


def _put(tree: Any, spec: PartitionSpec) -> Any:
    """Arrays of all processes' devices, of which this process gives what its own devices hold."""
    sharding = NamedSharding(Mesh(np.array(jax.devices()), (DEVICES,)), spec)
    if not exchange.several():
        return jax.device_put(tree, sharding)
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), tree)


def over_devices_train(train_step: Callable, divided: Any = None) -> Any:
    """pmap of `(state, controls, batch) -> (state, metrics)` of arrays that `place` and `shard` made; metrics are replicated.

    The state's buffers are donated: the new state reuses them. Where there are several processes, the metrics have a `CALL` too.

    Args:
      divided: the axes of the members in the state, where they are divided over the devices. Each device then gets the whole batch.
    """
    if divided is not None:
        train_step = _on_whole_batches(train_step)
    if exchange.several():
        train_step = _with_call(train_step)
    in_axes, out_axes = ((None, None, 0), None) if divided is None else ((divided, 0, 0), (divided, None))
    return jax.pmap(train_step, axis_name=DEVICES, in_axes=in_axes, out_axes=out_axes, donate_argnums=0)


def over_mesh_train(train_step: Callable, mesh: Mesh, divided: Any = None) -> Any:
    """`over_devices_train` for the devices of a mesh with the axis `DEVICES`, which needn't be here, such as those of a TPU that one
    compiles for. Arrays are whole: batches (B, ...), and a state of leaves (M, ...) even where its members are divided.
    """
    each, all_ = PartitionSpec(DEVICES), PartitionSpec()
    if divided is None:
        of_state, of_controls = all_, all_
    else:
        train_step = _on_whole_batches(train_step)
        of_state, of_controls = jax.tree.map(lambda axis: all_ if axis is None else each, divided, is_leaf=lambda axis: axis is None), each
    sharded = jax.shard_map(train_step, mesh=mesh, in_specs=(of_state, of_controls, each), out_specs=(of_state, all_), check_vma=False)
    return jax.jit(sharded, donate_argnums=0)


def _on_whole_batches(train_step: Callable) -> Callable:
    """A step of a device's own members (M / devices), for its share of the batch. uint8 images travel, and three numbers a member back."""

    def step(state, controls, share):
        state, metrics = train_step(state, controls, jax.lax.all_gather(share, DEVICES, tiled=True))
        return state, jax.lax.all_gather(metrics, DEVICES, tiled=True)

    return step


def _with_call(train_step: Callable) -> Callable:
    def step(state, controls, batch):
        state, metrics = train_step(state, controls, {name: leaf for name, leaf in batch.items() if name != CALL})
        return state, {**metrics, CALL: jax.lax.psum(batch[CALL], DEVICES)}

    return step


def over_devices_predict(log_probs: Callable, divided: bool = False) -> Callable:
    """pmap of `(params, hyper, images) -> (M, B / devices, ...)`; its result is (M, devices, B / devices, ...). Both may be trees.

    Where members are `divided`, each device answers all images, and hands the answers of its members on to the devices of the images.
    """
    if not divided:
        return jax.pmap(log_probs, axis_name=DEVICES, in_axes=(None, None, 0), out_axes=1)

    def of_all_members(params, hyper, share):
        answers = log_probs(params, hyper, jax.lax.all_gather(share, DEVICES, tiled=True))
        return jax.lax.all_to_all(answers, DEVICES, split_axis=1, concat_axis=0, tiled=True)

    return jax.pmap(of_all_members, axis_name=DEVICES, in_axes=0, out_axes=1)


def over_devices_sum(sums: Callable) -> Callable:
    """pmap of `(log_probs, batch) -> sums`, which adds over the devices itself. `over_devices_predict` makes the log_probs."""
    return jax.pmap(sums, axis_name=DEVICES, in_axes=(1, 0), out_axes=None)


def gather(results: Any) -> Any:
    """Results of the devices, leaves (M, devices, B / devices, ...), -> on the host, leaves (M, B, ...), of all processes' shares."""
    shares = jax.tree.map(np.asarray, results)
    shares = jax.tree.map(lambda leaf: leaf.reshape(leaf.shape[0], -1, *leaf.shape[3:]), shares)
    return jax.tree.map(lambda leaf: _in_order(leaf, 1), multihost_utils.process_allgather(shares)) if exchange.several() else shares


def whole_but_images(batches: Iterator[dict[str, np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
    """This process's batches, with the labels, indices and masks of all processes, in the order that `gather` gives."""
    if not exchange.several():
        return batches

    def whole(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        small = multihost_utils.process_allgather({name: leaf for name, leaf in batch.items() if name != "image"})
        return {name: _in_order(leaf, 0) for name, leaf in small.items()} | {"image": batch["image"]}

    return map(whole, batches)


def _in_order(shares: np.ndarray, axis: int) -> np.ndarray:
    """Join the processes' shares (processes, ..., B / processes, ...): process i of n has examples i, n + i, 2n + i, ... of a batch."""
    together = np.moveaxis(shares, 0, axis + 1)
    return together.reshape(*together.shape[:axis], -1, *together.shape[axis + 2 :])


def memory() -> int:
    """Bytes that programs can use on each device, of the device that has fewest. On CPUs: its share of the host's free memory.

    An exchange.
    """
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in jax.local_devices()]
    known = [limit for limit in limits if limit]
    own = min(known) if known else host.free_memory() // jax.local_device_count()
    return min(exchange.everyone_says(own))


def wait_on_virtual_devices(results: Any) -> Any:
    """Return the results. If one CPU acts as several devices, as in the tests, first wait until they are ready.

    On such devices, a sum over devices blocks a thread of each device until all shares have arrived. Two programs at once would need more
    threads than there are, and could wait for each other for ever.
    """
    return jax.block_until_ready(results) if jax.default_backend() == "cpu" and jax.device_count() > 1 else results
