"""Reports mistakes of the user, and Ctrl-C, in one line and without a traceback.

Every command calls `run_cli`:

    if __name__ == "__main__":
        run_cli(main)
"""

import contextlib
import errno
import io
import os
import re
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

LISTED = 20  # an error lists at most this many known names; `...` stands for the others
OURS = ("alexnet_jax", "experiments", "configs")
FEW = 8  # up to this many names are listed even if one of them is similar: the user may have meant another one
LONGEST = 2000  # letters of an error
# What pip calls the package of a module, where the two names differ and pip would install another one or none.
PIP_NAMES = {"tree": "dm-tree", "PIL": "pillow", "sklearn": "scikit-learn", "google": "protobuf", "orbax": "orbax-checkpoint"}


FULL = (errno.ENOSPC, errno.EDQUOT)  # of a disk
STOPPED = 75  # exit code of a command that saved and stopped: "run me again" (EX_TEMPFAIL of sysexits.h)


class UserError(Exception):
    """A mistake in the input. The message says what is wrong, where, and what to do, in one line, whatever somebody typed."""

    def __str__(self) -> str:
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in super().__str__())
        return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"


def cannot_write(path: Path, error: OSError, advice: str = "make room or make it writable, then run again") -> UserError:
    """The error of a file that can't be written: which, why, on a full disk how much is free, and what to do."""
    free = next((shutil.disk_usage(place).free for place in (path, *path.parents) if os.path.exists(place)), 0)
    full = f" ({free / 1e6:,.1f} MB are free)" if error.errno in FULL else ""
    return UserError(f"cannot write {path}: {error.strerror}{full}; {advice}")


def require_installed() -> None:
    """Exit with one line if this Python doesn't have the project, and let a package that turns out to be missing be one line too."""
    try:
        version("alexnet_jax")
    except UserError as error:
        sys.exit(f"error: {error}")
    sys.excepthook = _name_what_is_missing


def version(package: str) -> str:
    """The version of an installed package.

    Raises:
      UserError: it isn't installed, as where the project is a folder on PYTHONPATH alone.
    """
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        raise UserError(f"{package} is not installed in {sys.executable}; {_how_to_install()}") from None


def _name_what_is_missing(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Print one line for a package that isn't installed, and the traceback of any other error."""
    package = missing_package(error) if isinstance(error, ModuleNotFoundError) else ""
    if not package or package in OURS:
        sys.__excepthook__(kind, error, trace)
        return
    print(f"error: {not_installed(package)}", file=sys.stderr)


def missing_package(error: ImportError) -> str:
    """The package whose absence an import reports, by the name that pip knows; empty where the error names none."""
    module = (error.name or "").partition(".")[0]
    return PIP_NAMES.get(module, module)


def not_installed(package: str) -> str:
    """What a person is told of a missing package, in words."""
    return f"the package {package}, which alexnet_jax needs, is not installed in {sys.executable}; {_how_to_install()}"


def _how_to_install() -> str:
    root = Path(__file__).resolve().parent.parent
    return f"in {root} run `pip install -e .`, or `source .venv/bin/activate` if `make train` has made it"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown name: the most similar known name, or the known names, or both if they are few.

    Code that reads a name from a person calls it:

        raise UserError(f"unknown factor {name!r}{did_you_mean(name, FACTORS)}")
        # unknown factor 'lnr'; did you mean lrn? Known: lrn, augment, dropout
        # unknown factor 'size'; known: lrn, augment, dropout

    For a config field, a field of the same name in another section is the most similar one, with or without the section's name.
    """
    import difflib  # imported here, since a correct command does not need it

    names = list(known)
    section, _, field = name.rpartition(".")
    same_field = [other for other in names if re.fullmatch(rf"\w+\.{re.escape(field)}", other)]
    near = difflib.get_close_matches(name, same_field if section else same_field[:1], 1, cutoff=0) or difflib.get_close_matches(
        name, names, 1
    )
    listed = ", ".join(names[:LISTED] + ["..."] * (len(names) > LISTED)) or "none"
    if near:
        return f"; did you mean {near[0]}?" + f" Known: {listed}" * (len(names) <= FEW)
    return f"; known: {listed}"


def say(text: str, stream: TextIO | None = None) -> None:
    """Print a line, to a console that may have gone away."""
    stream = stream or sys.stdout
    with may_be_gone(stream):
        print(text, file=stream, flush=True)


@contextlib.contextmanager
def may_be_gone(stream: TextIO) -> Iterator[None]:
    """A console that went away (a closed terminal, a pipe without a reader, a full disk) is no error of what was done."""
    try:
        yield
    except OSError:
        _silence(stream)


def _open_what_is_closed() -> None:
    """Give a command that was started without a stdin, stdout or stderr (`>&-`, some daemons) an empty one.

    The system gives the next file that is opened the free number; what XLA then writes to stderr would go into a checkpoint or the log.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
            os.set_inheritable(descriptor, True)
            setattr(sys, name, os.fdopen(descriptor, "w" if number else "r"))


def _silence(stream: TextIO) -> None:
    """Let what is still to be written to a stream go nowhere, so that Python's last flush doesn't fail."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def in_a_line(error: BaseException) -> str | None:
    """What a person is told of a mistake, of a file that the system refuses or of a full memory; None of what needs its traceback."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in str(error):  # the text of JaxRuntimeError; JAX is not imported here
        return str(_full("a device", error))
    if isinstance(error, MemoryError):
        return str(_full("the machine", error))
    if isinstance(error, OSError) and error.filename is not None:
        return str(UserError(f"{error.filename}: {error.strerror}"))
    if isinstance(error, OSError) and error.errno in (*FULL, errno.EIO):  # of a file that is opened, there is the name
        return f"what was to be written is cut off: {error.strerror}"
    return None


def run_cli(main: Callable[[], int | None]) -> None:
    """Run a command's `main` and exit with its code.

    A `UserError`, a file that the system refuses, output that a full disk doesn't take, and a full memory each become one line on stderr
    and exit code 1. Ctrl-C becomes one line and exit code 130.
    """
    _open_what_is_closed()
    os.environ |= {"MPLBACKEND": "agg", "MATPLOTLIBRC": os.devnull}  # figures go into files, and look alike whatever somebody's settings
    hook, sys.unraisablehook = sys.unraisablehook, _interrupt_again
    for stream in (sys.stdout, sys.stderr):  # a console that can't show a letter shows its code instead
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = main()
    except KeyboardInterrupt:
        say("interrupted", sys.stderr)
        code = 130  # 128 + SIGINT, the convention of shells
    except BrokenPipeError:  # `... | head`
        code = 1
    except Exception as error:
        if (line := in_a_line(error)) is None:
            raise
        say(f"error: {line}", sys.stderr)
        code = 1
    finally:
        if sys.unraisablehook is _interrupt_again:  # a test may go on after a command
            sys.unraisablehook = hook
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            _silence(stream)
            if not code and (line := in_a_line(error)):
                say(f"error: {line}", sys.stderr)
                code = 1
    sys.exit(code or 0)


def _full(whose: str, error: Exception) -> UserError:
    reason = f" ({str(error).splitlines()[0]})" if str(error) else ""
    advice = "lower the batch size (train. or eval.batch_size, --batch-size) or train.members_per_program"
    return UserError(f"{whose}'s memory is full{reason}; {advice}")


def _interrupt_again(unraisable: "sys.UnraisableHookArgs") -> None:
    """Send a lost Ctrl-C again.

    Python drops exceptions in finalisers and in callbacks, such as JAX's callback on garbage collection, so a Ctrl-C there would be lost.
    The signal comes again a moment later; at once, it would arrive in the same callback.
    """
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
    else:
        sys.__unraisablehook__(unraisable)
