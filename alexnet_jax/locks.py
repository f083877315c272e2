"""A lock file: one process at a time works in a directory.

A training holds one in its run directory, `prepare` in a dataset's, a launcher in that of its runs:

    with locked(workdir / ".running", f"another process is training in {workdir}; stop it, or use another --workdir"):
        ...

The system frees a lock when its holder dies, so that none is ever left behind; the empty file stays. On a file system without locks
nobody can tell that another process is at work, and all go on.
"""

import fcntl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alexnet_jax.errors import UserError


@contextmanager
def locked(path: Path, busy: str, wait: bool = False) -> Iterator[None]:
    """Hold the lock file `path`, which is made with its directory where it isn't there.

    Args:
      busy: what to say where another process holds it.
      wait: say it on stderr and wait, instead of raising it.

    Raises:
      UserError: `busy`, or the file can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "w")  # noqa: SIM115
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; make room or choose another directory") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise UserError(busy) from None
            print(busy, file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            pass
        yield


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock file, on this machine or on one that shares its file locks."""
    try:
        with open(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no such file, or a file system without locks
        return False
    return False
