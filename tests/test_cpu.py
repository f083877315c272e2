"""What is set for CPUs, and when it is left alone."""

import importlib.util

import pytest

from alexnet_jax import cpu

FLAG = "--xla_cpu_experimental_ynn_fusion_type="


@pytest.mark.parametrize(
    ("before", "plugin", "platforms", "after"),
    [
        ("", None, "", FLAG),
        ("--xla_dump_to=x", None, "", f"--xla_dump_to=x {FLAG}"),
        (f"{FLAG}DOT", None, "", f"{FLAG}DOT"),  # the user's word wins
        ("", "jax_cuda13_plugin", "", ""),  # an accelerator's XLA may refuse what it doesn't know
        ("", "jax_cuda13_plugin", "cpu", FLAG),
    ],
)
def test_flags(before, plugin, platforms, after, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", before)
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == plugin or None)
    cpu.prepare()
    assert cpu.os.environ["XLA_FLAGS"] == after
