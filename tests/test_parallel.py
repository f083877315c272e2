"""What the environment may not change."""

import subprocess
import sys

SCRIPT = """
from alexnet_jax import parallel
parallel.start()
import jax
print(jax.random.uniform(jax.random.key(3), (2,)).tolist(), jax.random.uniform(jax.random.key(3)).dtype)
"""


def test_variables_that_other_programs_need_do_not_change_a_runs_draws(monkeypatch):
    def draws():
        return subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout

    plain = draws()
    for name, value in {
        "JAX_ENABLE_X64": "1",
        "JAX_DEFAULT_PRNG_IMPL": "rbg",
        "JAX_THREEFRY_PARTITIONABLE": "0",
        "JAX_RANDOM_SEED_OFFSET": "7",
    }.items():
        monkeypatch.setenv(name, value)
    assert draws() == plain
