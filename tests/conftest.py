"""What the tests share: four CPU devices, warnings as errors (pyproject.toml), the digits as a dataset, a tiny config.

XLA's compiling is most of the tests' work, so here it optimises little: a training step of two members is compiled in 0.9 s, not in 6.6.
What is about the program as users have it is compiled with the options `as_shipped`.

The tests with the mark `accelerator` run on one accelerator too, in float32 without TF32 and with operations that repeat to the bit:

    JAX_PLATFORMS=cuda,cpu python -m pytest -m accelerator
"""

import contextlib
import os
import signal
from importlib.metadata import version

if os.environ.setdefault("JAX_PLATFORMS", "cpu") == "cpu":
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
    if version("jax").startswith("0.10."):  # later ones have no other way of emitting
        os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
else:
    os.environ["XLA_FLAGS"] = "--xla_gpu_deterministic_ops=true"
    os.environ["JAX_DEFAULT_MATMUL_PRECISION"] = "highest"
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # several processes, and PyTorch, share the memory

import pytest

# Its import closes what absl logs to, unless that is sys.stderr. In a test with capsys it would be pytest's own file, and pytest would die.
import submitit  # noqa: F401

from alexnet_jax import config as config_lib
from alexnet_jax import parallel
from alexnet_jax.prepare.datasets import prepare_digits

parallel.start()
# Some tests send themselves Ctrl-C, or what a closed terminal sends. Whatever is started in the background may ignore them.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def as_shipped():
    """XLA's defaults in place of what XLA_FLAGS says above, for `compiler_options`."""
    emitters = {"xla_cpu_use_fusion_emitters": True} if "fusion_emitters" in os.environ["XLA_FLAGS"] else {}
    return {"xla_backend_optimization_level": 3, **emitters}


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory):
    """A data directory that holds the prepared digits."""
    directory = tmp_path_factory.mktemp("data")
    prepare_digits(directory)
    return directory


@pytest.fixture
def tiny_config(digits_dir):
    """`tiny_config("section.field=value", ...)`: two very narrow members on the digits, 40 images a step, 31.45 steps an epoch."""

    def make(*overrides, members=2):
        base = (
            f"data.dir={digits_dir}",
            "model.width=0.04",
            "train.batch_size=40",
            "train.log_every_steps=5",
            "eval.batch_size=64",
        )
        return config_lib.load(f"configs/digits.py:members={members}", [*base, *overrides])

    return make


@pytest.fixture
def lost_stdout():
    """`with lost_stdout(): ...`: in place of stdout, a pipe that nobody reads any more."""

    @contextlib.contextmanager
    def lost():
        reader, writer = os.pipe()
        os.close(reader)
        stream = os.fdopen(writer, "w", buffering=1)  # a line at a time, as to a terminal
        with contextlib.redirect_stdout(stream):
            yield
        with contextlib.suppress(BrokenPipeError):
            stream.close()

    return lost


@pytest.fixture(scope="session")
def untrained_run(digits_dir, tmp_path_factory):
    """A run directory of two very narrow networks on the digits as their seeds drew them."""
    import jax
    import numpy as np

    from alexnet_jax import data, run
    from alexnet_jax import network as network_lib
    from alexnet_jax.checkpoint import Checkpoints
    from alexnet_jax.state import Networks

    workdir = tmp_path_factory.mktemp("untrained") / "run"
    config = config_lib.load("configs/digits.py:members=2", [f"data.dir={digits_dir}", "model.width=0.04", "eval.batch_size=64"])
    dataset = data.load(config.data)
    network = network_lib.build(config, dataset.image_shape, len(dataset.classes))
    state = jax.tree.map(np.asarray, network.init_state())
    run.write_config(workdir, config, dataset)
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(0, {"networks": Networks(state.step, state.params, network.hyper)}, {})
        checkpoints.wait()
    return workdir
