"""What is set for CPUs, and when it is left alone."""

import importlib.util
import os
import platform
import statistics
import subprocess
import sys

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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator's settings are glibc's")
def test_a_programs_memory_is_reused_at_the_next_call():
    """Of 40 MB that the program needs beside its argument and its result, few calls but the first wait for the pages.

    Not none: now and then a small block is put into what was freed, and 40 MB no longer fit there.
    """
    code = """
import resource, jax, jax.numpy as jnp
from alexnet_jax import parallel
parallel.start()
total = jax.jit(lambda x: jnp.sum(jnp.sort(jnp.broadcast_to(x, (25, 400_000)), 0)))
faults = []
for _ in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    total(jnp.arange(4e5)).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(*(count * resource.getpagesize() for count in faults))
"""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    first, *others = map(int, subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=True).stdout.split())
    assert first > 36e6
    assert statistics.median(others) < 4e6
