"""Sends commands to a run that is training: drop the learning rate, set a hyperparameter, save, stop. No restart is needed.

    python -m alexnet_jax.control runs/digits status
    python -m alexnet_jax.control runs/digits drop [--member I] [--factor .1]
    python -m alexnet_jax.control runs/digits set learning_rate=.003 [--member I]
    python -m alexnet_jax.control runs/digits save | stop

Each command is one line of RUN/control.jsonl. The run executes it at its next step, and logs who sent it, when, and at which step it took
effect. A checkpoint holds what the commands changed and how many were read, so each command takes effect once, also after a restart. A run
that isn't running executes its commands when it resumes; there is nothing to stop.
"""

import argparse
import getpass
import json
import os
import socket
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alexnet_jax import config as config_lib
from alexnet_jax import history
from alexnet_jax.errors import UserError, run_cli
from alexnet_jax.runlog import writing
from alexnet_jax.train.inbox import CONTROL, POLL, is_running

PATIENCE = 30  # seconds to wait for the answer of a run that is training


def status(workdir: Path) -> str:
    """The progress of a run, with a line for each member."""
    past = history.load(workdir)
    start, step = past.start, past.step
    if not start:
        raise UserError(f"{workdir} has not started training")
    state = "running" if is_running(workdir) else "not running"
    lines = [f"{workdir}: {state}, step {step:,} of {start['steps']:,}, epoch {step / start['steps_per_epoch']:.2f}"]
    for member, name in enumerate(start["member_names"]):
        parts = [f"{member}  {name}"]
        if past.learning_rates:
            parts.append(f"learning rate {past.learning_rates[member]:.3g}")
        parts.append(f"{past.drop_counts[member]} drops")
        if past.evals:
            parts.append(f"{past.evals[-1]['split']} error {past.evals[-1]['top1_error'][member]:.2%}")
        lines.append("  ".join(parts))
    return "\n".join(lines)


def send(workdir: Path, command: str, **fields: Any) -> dict[str, Any]:
    """Append a command to the run's control.jsonl, and return it as written.

    Raises:
      UserError: the file can't be written.
    """
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in containers
        user = str(os.getuid())
    who = f"{user}@{socket.gethostname()}"
    sent = datetime.now(UTC).isoformat(timespec="seconds")
    record = {"id": uuid.uuid4().hex, "sent": sent, "by": who, "command": command} | fields
    with writing(workdir / CONTROL), open(workdir / CONTROL, "ab", buffering=0) as file:
        file.write(json.dumps(record).encode() + b"\n")  # one write, so that two senders' lines don't mix
    return record


def answer(workdir: Path, record: dict[str, Any]) -> str:
    """Wait for the run's answer to a command, and return it."""
    if not is_running(workdir):
        return f"{workdir} isn't running; it executes the command when it resumes"
    until, log = time.monotonic() + PATIENCE, history.Follower(workdir)
    while time.monotonic() < until:
        for event in log.read().controls:
            if event.get("id") == record["id"]:
                return f"step {event['step']:,}: {event['outcome']}"
        if not is_running(workdir):
            return f"{workdir} ended before it took the command up"
        time.sleep(POLL)
    return f"no answer after {PATIENCE} s: the run may be compiling or evaluating; it executes the command at its next step"


def check(workdir: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Check the arguments of a command, and return its fields.

    Raises:
      UserError: the run or the member doesn't exist, or a value is outside its range.
    """
    past = history.load(workdir)
    members = past.start.get("members", 0)
    fields: dict[str, Any] = {}
    if getattr(args, "member", None) is not None:
        if not 0 <= args.member < members:
            raise UserError(f"{workdir} has no member {args.member}; its members are 0 to {members - 1}")
        fields["member"] = args.member
    if args.command == "drop":
        from alexnet_jax.train import plateau

        plateau.check_factor(args.factor)
        fields["factor"] = args.factor
    if args.command == "set":
        fields |= _assignment(args.assignment)
    if args.command == "stop" and not is_running(workdir):
        raise UserError(f"{workdir} isn't running, so there is nothing to stop")
    if past.test and not is_running(workdir):
        raise UserError(f"{workdir} has finished: there is no step left at which it could execute a command")
    return fields


def _assignment(text: str) -> dict[str, Any]:
    """Parse `name=value` of a hyperparameter into the fields `name` and `value`."""
    from alexnet_jax import hyper

    name, _, value = text.partition("=")
    hyper.check_settable(name)
    try:
        number = float(value)
    except ValueError:
        raise UserError(f"{text}: {value!r} is not a number") from None
    hyper.check_range(name, number)
    return {"name": name, "value": number}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "python -m alexnet_jax.control", description="Control a run while it trains. The run logs every command."
    )
    parser.add_argument("run", type=config_lib.path, metavar="RUN", help="a run directory")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("status", help="print its step, learning rates, drops and errors")
    drop = commands.add_parser("drop", help="multiply the learning rate by a factor")
    drop.add_argument("--factor", type=float, default=0.1, help="the factor (default: .1)")
    assign = commands.add_parser("set", help="set a hyperparameter, such as learning_rate=.003")
    assign.add_argument("assignment", metavar="NAME=VALUE")
    for command in (drop, assign):
        command.add_argument("--member", type=int, help="the number of one member (default: all members)")
    commands.add_parser("save", help="write a checkpoint now")
    commands.add_parser("stop", help="save and stop; the same train command resumes the run")
    args = parser.parse_args(argv)
    if args.command == "status":
        print(status(args.run))
        return
    record = send(args.run, args.command, **check(args.run, args))
    print(answer(args.run, record))


if __name__ == "__main__":
    run_cli(main)
