"""What the machine has for this process: CPU cores, the CPU's name, free memory. parallel.py has its devices.

host.cores()          # 2, also where the machine has more but a container or a job gives only two
host.free_memory()    # bytes
"""

import os
import platform
from pathlib import Path

import psutil


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


def free_memory() -> int:
    """Bytes of memory that this process can still take."""
    return int(min(psutil.virtual_memory().available, _left_of_cgroups()))


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
