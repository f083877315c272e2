"""Mistakes of the user, and Ctrl-C: reported in one line, without a traceback."""

import sys
from collections.abc import Callable


class UserError(Exception):
    """Bad input. The message says what was found, where, and what to do."""


def run_cli(main: Callable[[], int | None]) -> None:
    """Run a command's `main` and exit with its code; a `UserError` becomes one line on stderr and exit code 1, Ctrl-C one line and 130."""
    try:
        code = main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130  # 128 + SIGINT, as shells have it
    except BrokenPipeError:  # `... | head`
        code = 1
    sys.exit(code or 0)
