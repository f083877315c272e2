"""Mistakes of the user: reported in one line, without a traceback, with exit code 1."""

import sys
from collections.abc import Callable


class UserError(Exception):
    """Bad input. The message says what was found, where, and what to do."""


def run_cli(main: Callable[[], int | None]) -> None:
    """Run a command's `main` and exit with its code; a `UserError` becomes one line on stderr and exit code 1."""
    try:
        code = main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    except BrokenPipeError:  # `... | head`
        code = 1
    sys.exit(code or 0)
