"""A lock file: only one process at a time works in a directory.

A training locks its run directory, `prepare` locks its dataset's directory, and a launcher locks the directory of its runs:

    with locked(workdir / ".running", f"another process is training in {workdir}; stop it, or use another --workdir"):
        ...

The system frees a lock when its process ends, even after a kill; the empty file stays. On a file system without locks, a process cannot
see that another one is at work, and both work.
"""

import fcntl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alexnet_jax.errors import UserError, cannot_write


@contextmanager
def locked(path: Path, busy: str, wait: bool = False) -> Iterator[None]:
    """Hold the lock file `path`. The file and its directory are made if they do not exist.

    Args:
      busy: the message if another process holds the lock.
      wait: print the message on stderr and wait, instead of raising it.

    Raises:
      UserError: another process holds the lock (`busy`), or the file can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "w")  # noqa: SIM115
    except OSError as error:
        raise cannot_write(path, error, "make room or choose another directory") from None
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
    """Whether a process holds the lock file, on this machine or on another one that shares its file locks."""
    try:
        with open(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no such file, or a file system without locks
        return False
    return False
