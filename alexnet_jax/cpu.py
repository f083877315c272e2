"""Settings that make XLA's CPU backend fast. Other devices see none of them.

`parallel.start` calls `prepare` before the first computation; turns.py and state.py use the others. Which form of an operation suits
CPUs is said in device_choices.py.
"""

import ctypes
import importlib.util
import os
import platform

import jax

# XLA's default puts convolutions into YNNPACK, where they are slower than in Eigen: compare with this flag at INDIVIDUAL_CONVOLUTION.
_NO_YNNPACK = "--xla_cpu_experimental_ynn_fusion_type="

# XLA allocates a program's memory anew at every step. By itself, glibc gives such large blocks back to the system, and then the next step
# waits for each of their pages again. Here it keeps what is freed: no block is a mapping of its own, and the end of the heap isn't given
# back. That works in the main thread's heap alone: the heaps of other threads have at most 64 MB, and larger blocks are mapped. So programs
# run in the thread that calls them, not in one of XLA's. The numbers are those of glibc's malloc.h, for mallopt(3).
_KEEP_MEMORY = {"M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, -1)}


def prepare() -> None:
    """Set flags before the first computation, unless the user has set them or there may be an accelerator, whose XLA may not know them."""
    if os.environ.get("JAX_PLATFORMS") != "cpu" and any(
        importlib.util.find_spec(name) for name in ("libtpu", "jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm7_plugin")
    ):
        return
    flags = os.environ.get("XLA_FLAGS", "")
    if _NO_YNNPACK not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_NO_YNNPACK}".strip()
    jax.config.update("jax_cpu_enable_async_dispatch", False)  # see _KEEP_MEMORY
    if _glibc() and "glibc.malloc" not in os.environ.get("GLIBC_TUNABLES", ""):
        for parameter, value in _KEEP_MEMORY.values():
            ctypes.CDLL(None).mallopt(parameter, value)


def users_flags() -> str:
    """XLA's flags of the user: without the one that `prepare` adds, and without the number of CPU devices, of which a run may change."""
    flags = os.environ.get("XLA_FLAGS", "").split()
    return " ".join(flag for flag in flags if flag != _NO_YNNPACK and not flag.startswith("--xla_force_host_platform_device_count"))


def give_back() -> None:
    """Give freed memory back to the system: after a compilation it lies in pieces, of which a step could use few."""
    if _glibc():
        ctypes.CDLL(None).malloc_trim(0)


def _glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"


def quick_to_compile() -> dict[str, int]:
    """Compiler options of a program that runs once: it's compiled four times as fast, to the same bits."""
    return {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else {}
