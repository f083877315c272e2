"""The training step of a config, compiled ahead of time for TPUs that aren't here, and lowered for CUDA. The command calls:

    over = mesh("v5e:2x2")
    built = build(config, over.size)
    compiled = trace(built, over).lower().compile()    # JAX's: as_text(), memory_analysis(), cost_analysis()
    check_cuda(build(config, 1, "gpu"))

It is the step that a run makes (train/loop.py), with the same choice of what devices share and of turns; only `jit` over `shard_map` takes
the place of `pmap`, which needs devices.
"""

import importlib.util
import os
import re
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from alexnet_jax import data, memory, network, parallel, resample, turns
from alexnet_jax.errors import UserError
from alexnet_jax.network import Network
from alexnet_jax.prepare.pixel_stats import PixelStats
from alexnet_jax.state import MEMBER_AXES, Controls
from alexnet_jax.train import schedule
from alexnet_jax.train.step import make_train_step
from alexnet_jax.turns import Turns

MEMORY = 16_000_000_000  # bytes of a TPU v5e
IMAGENET = ((256, 256, 3), 1000, 1_281_167)  # the shape of prepared images, classes, training images: so it needn't be here


class Built(NamedTuple):
    """What a config makes of a run on a number of devices, without a device."""

    config: ConfigDict
    network: Network
    image_shape: tuple[int, ...]
    images: int  # of the training split
    turns: Turns
    split: str  # what the devices share, and why, in words
    step: Any  # of train/step.py, for the members of a turn


def build(config: ConfigDict, devices: int, platform: str = "tpu") -> Built:
    """Build the step of a config for a number of devices. ImageNet needn't be prepared; other datasets are asked for their shapes.

    Raises:
      UserError: the config makes no sense, or its batch can't be shared by the devices.
    """
    if config.data.name == "imagenet":
        image_shape, classes, images = IMAGENET
        stats = PixelStats(np.full(3, 120, np.float32), np.asarray(70, np.float32), np.ones(3, np.float32), np.eye(3, dtype=np.float32))
    else:
        dataset = data.load(config.data, config.model.pixel_mean)
        image_shape, classes, stats = dataset.image_shape, len(dataset.classes), dataset.stats
        images = len(dataset.source(config.data.train_split))
    parallel.check_batch_size(config.train.batch_size, "train.batch_size", config.train.accumulate, devices)
    timeline = schedule.make_timeline(config, images)
    built = network.build(config, image_shape, classes)
    in_turn, why = _turns(config, built, devices)
    factor = schedule.make_schedule(config, timeline)
    resampling = resample.choose(config.augment.resampling, platform, built.hyper.rotation)
    shear_to = resample.shear_to(resampling, built.hyper.rotation)
    step = make_train_step(built.model, built.make_optimizer, stats, factor, in_turn.batch_axis, config.train.accumulate, shear_to)
    return Built(config, built, image_shape, images, in_turn, why, step)


def _turns(config: ConfigDict, built: Network, devices: int) -> tuple[Turns, str]:
    """As train/setup.py chooses them: members are divided over devices where none can hold all."""
    per_program = config.train.members_per_program or parallel.MEMBERS_PER_PROGRAM
    for tight in (False, True):
        split, why = turns.choose(built.hyper.members, config.parallel.split, tight, devices)
        in_turn = turns.plan(built.hyper.members, per_program, split, devices)
        if memory.of_state(built.abstract_state(), in_turn).total <= MEMORY:
            break
    return in_turn, why


def mesh(topology: str) -> Mesh:
    """The devices of a topology such as `v5e:2x2`, for which XLA's compiler for TPUs can compile.

    Raises:
      UserError: libtpu isn't installed, or there is no such topology.
    """
    if not (shape := re.fullmatch(r"v5e:(\d+)x(\d+)", topology)):
        raise UserError(
            f"--topology {topology!r} is unknown; write v5e:1x1, v5e:2x2, v5e:4x4, ... up to v5e:16x16 (its clock and links are known)"
        )
    if not importlib.util.find_spec("libtpu"):
        raise UserError('XLA\'s compiler for TPUs is not installed; it comes with: pip install -c constraints.txt -e ".[tpu]"')
    return topology_of(topology, [min(2, int(side)) for side in shape.groups()])


def topology_of(topology: str, on_host: list[int]) -> Mesh:
    """The mesh of a topology whose hosts have so many rows and columns of chips each.

    Raises:
      UserError: libtpu knows no such topology.
    """
    from jax.experimental import topologies

    # Without these, libtpu asks Google Cloud what machine this is, and lets one process at a time compile.
    quiet = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5litepod-4"}
    quiet |= {"TPU_MIN_LOG_LEVEL": "3", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    for name, value in quiet.items():
        os.environ.setdefault(name, value)
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology, chips_per_host_bounds=[*on_host, 1])
    except Exception as error:  # libtpu's own
        raise UserError(f"--topology {topology}: {str(error).splitlines()[0]}; v5e has 1x1, 2x2, 4x4, 8x8, 16x16 and others") from None
    return Mesh(np.array(found.devices), (parallel.DEVICES,))


def trace(built: Built, over: Mesh) -> Any:
    """The step for a mesh, traced for arrays that don't exist: JAX's `Traced`, with `lower`."""
    divided = MEMBER_AXES if built.turns.divided else None
    each, all_ = PartitionSpec(parallel.DEVICES), PartitionSpec()

    def abstract(tree: Any, spec: PartitionSpec, **first: int) -> Any:
        """Leaves with another first dimension, if one is given; scalars are never divided."""

        def leaf_of(leaf: Any) -> jax.ShapeDtypeStruct:
            shape = (*first.values(), *leaf.shape[len(first) :]) if leaf.shape else ()
            return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=NamedSharding(over, spec if shape else all_))

        return jax.tree.map(leaf_of, tree)

    members = {"members": built.turns.size}
    count = built.network.hyper.members
    controls = Controls(built.network.hyper, np.ones(count, np.float32), np.zeros(count, bool))
    batch = data.blank_batch(built.config.train.batch_size, built.image_shape)
    own = each if divided else all_
    arguments = abstract(built.network.abstract_state(), own, **members), abstract(controls, own, **members), abstract(batch, each)
    return parallel.over_mesh_train(built.step, over, divided).trace(*arguments)


def check_cuda(built: Built) -> None:
    """Lower the step for CUDA.

    Raises:
      UserError: something in it has no form for CUDA, or calls into a library that isn't CUDA's.
    """
    try:
        text = trace(built, Mesh(np.array(jax.devices()[:1]), (parallel.DEVICES,))).lower(lowering_platforms=("cuda",)).as_text()
    except NotImplementedError as error:
        raise UserError(f"the step can't be lowered for CUDA: {str(error).splitlines()[0]}") from None
    foreign = {call for call in re.findall(r"custom_call @(\w+)", text) if not call.startswith(("cu", "__gpu", "Sharding", "SPMD"))}
    if foreign:
        raise UserError(f"lowered for CUDA, the step calls what isn't CUDA's: {', '.join(sorted(foreign))}")
