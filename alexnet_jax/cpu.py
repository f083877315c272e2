"""What XLA's CPU backend has to be told to be fast; other devices don't see any of it."""

import importlib.util
import os

import jax
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint

# Convolutions in YNNPACK, where XLA's default fusions put them, make a step slower by a third and more than Eigen's.
_NO_YNNPACK = "--xla_cpu_experimental_ynn_fusion_type="


def prepare() -> None:
    """Set flags, before the first computation, unless there is an accelerator or the user has had a say."""
    if any(importlib.util.find_spec(name) for name in ("libtpu", "jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm7_plugin")):
        return
    flags = os.environ.get("XLA_FLAGS", "")
    if _NO_YNNPACK not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_NO_YNNPACK}".strip()


def row_major(x: jax.Array) -> jax.Array:
    """The array itself, its last axis contiguous in memory. Elsewhere XLA keeps its choice of layout.

    Where a transposed result suits what comes next, XLA lets a matrix product write it so, which means that Eigen reads the larger factor
    across its rows: five times slower for a gradient through fc6 (docs/performance.md).
    """
    constrained = lambda x: with_layout_constraint(x, Layout(major_to_minor=tuple(range(x.ndim))))  # noqa: E731
    return lax.platform_dependent(x, cpu=constrained, default=lambda x: x)
