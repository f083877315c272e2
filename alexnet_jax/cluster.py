"""One process among several: how it joins the others, and what is said when one of them is lost.

The commands that run on several hosts take `add_arguments`, and call `watch` before they import JAX; `parallel.start` calls `join`:

    place = cluster.place(args)     # of the arguments, or of what Slurm, Open MPI or Cloud TPU set; one process needs none of them
    cluster.watch(place)            # returns in the process that computes

Where there are several processes, each is two: one that computes, and its parent, which waits. JAX's runtime ends a process whose
coordinator is gone without a word of Python; its parent says what happened. What the runtime itself prints goes to a file, of which the
parent shows the end where nothing else explains a death.

All processes beat: each changes a value in the coordinator's store every `BEAT` seconds, and looks at the others' values. One that has not
changed for `LIMIT` seconds belongs to a process that is dead or stands still. Process 0 names it, and all end.
"""

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from alexnet_jax.errors import UserError, in_a_line, say

BEAT = 2.0  # seconds
LIMIT = 30.0  # seconds without a beat after which a process is lost
WAIT = 300.0  # seconds for which a process waits for the others at the start
RUNTIME_LOG = "ALEXNET_JAX_RUNTIME_LOG"  # set in the process that computes: the file of what the runtime prints
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
# The number of processes and the number of this one, as srun and mpirun set them for each task. A shell inside an allocation, and a step or
# a batch script of one task, have SLURM_NTASKS too, but no SLURM_STEP_NUM_TASKS above 1.
LAUNCHERS = (("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"), ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"))
AGAIN = "the same command goes on from the last checkpoint"
_JOINED, _ALIVE, _END, _LEFT = "alexnet_jax: joined the others", "alexnet_jax/alive/", "end", "left: "


class Place(NamedTuple):
    """Which process this is. `coordinator` is HOST:PORT of process 0; where it is empty, JAX finds it in the environment."""

    processes: int = 1
    process: int | None = 0  # None: JAX finds it in the environment
    coordinator: str = ""
    wait: float = WAIT

    def named(self, process: int | None) -> str:
        return f"process {'?' if process is None else process} of {self.processes}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("on several hosts, the same command on each; tasks of srun or mpirun need none of this")
    group.add_argument("--coordinator", default="", metavar="HOST:PORT", help="an address of process 0 that the others can reach")
    group.add_argument("--processes", type=int, metavar="N", help="how many processes there are; alone on hosts of a Cloud TPU")
    group.add_argument("--process", type=int, metavar="I", help="which one this is, from 0")
    group.add_argument("--wait", type=float, default=WAIT, metavar="SECONDS", help="for the others to come (default: 300)")


def place(args: argparse.Namespace) -> Place:
    """This process's place, of the arguments or of the environment.

    Raises:
      UserError: arguments that contradict each other.
    """
    found = _of_environment()
    if args.processes is None and args.process is None and not args.coordinator:
        return found._replace(wait=args.wait)
    if args.processes is None or (args.process is None) != (not args.coordinator):
        raise UserError("--coordinator, --processes and --process belong together; on hosts of a Cloud TPU, --processes alone")
    if args.processes < 1 or not 0 <= (args.process or 0) < args.processes:
        raise UserError(f"--process {args.process or 0} of --processes {args.processes}: processes are numbered from 0")
    if args.coordinator and not re.fullmatch(r".+:\d+", args.coordinator):
        raise UserError(f"--coordinator {args.coordinator}: write HOST:PORT, such as node1:9000")
    return Place(args.processes, args.process, args.coordinator, args.wait)


def _of_environment() -> Place:
    for count, own in LAUNCHERS:
        if os.environ.get(count, "1") != "1" and own in os.environ:
            return Place(_number(count), _number(own))
    hosts = os.environ.get("TPU_PROCESS_ADDRESSES") or os.environ.get("TPU_WORKER_HOSTNAMES", "")
    if "," in hosts and "TPU_WORKER_ID" in os.environ:
        return Place(hosts.count(",") + 1, _number("TPU_WORKER_ID"))
    return Place()


def _number(variable: str) -> int:
    if not os.environ[variable].isdecimal():
        raise UserError(f"the environment has {variable}={os.environ[variable]!r}, which is no number; unset it where there is one process")
    return int(os.environ[variable])


def watched() -> bool:
    """Whether this process computes, and has a parent that passes signals on."""
    return RUNTIME_LOG in os.environ


# The parent


def watch(place: Place) -> None:
    """Become the parent of the process that computes, and exit as it does. Returns in that process, and where there is only one."""
    if place.processes == 1 or watched():
        return
    with tempfile.NamedTemporaryFile("r", prefix="alexnet_jax-", errors="replace") as log:
        # A session of its own: what a terminal sends to all its processes reaches the parent alone.
        child = subprocess.Popen([sys.executable, *sys.orig_argv[1:]], env={**os.environ, RUNTIME_LOG: log.name}, start_new_session=True)
        _forward_signals(child)
        code = child.wait()
        if code < 0:
            say(f"error: {_death(place, -code, log.read())}", sys.stderr)
    sys.exit(code if code >= 0 else 1)


def _forward_signals(child: subprocess.Popen) -> None:
    """Pass each signal on once; a second one of its kind ends the child at once."""
    told = set[int]()

    def forward(number: int, _frame: object) -> None:
        if number in told:
            child.kill()
        else:
            told.add(number)
            child.send_signal(number)

    for number in FORWARDED:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, forward)


def _death(place: Place, number: int, log: str) -> str:
    """Why a process that computed was ended by a signal, from what the runtime printed."""
    own, coordinator = place.named(place.process), f"process 0{f', {place.coordinator},' if place.coordinator else ''}"
    if number != signal.SIGABRT:
        killed = signal.Signals(number).name
        memory = "; the system does this when memory runs out" if number == signal.SIGKILL else ""
        return f"{own} on {socket.gethostname()} was ended by {killed}{memory}; {AGAIN}"
    if _JOINED not in log:
        missing = re.search(r"timed out task names:\s*((?:\d+\s+)+)", log)
        if missing:
            numbers = sorted(map(int, missing[1].split()))
            named = f"process{'es' * (len(numbers) > 1)} {', '.join(map(str, numbers))} of {place.processes}"
            return f"{named} did not come within {place.wait:g} s (--wait)"
        if "RegisterTask" in log:
            return f"{coordinator} did not come within {place.wait:g} s (--wait), or {own} can't reach it"
    elif place.process != 0:
        return f"{coordinator} is gone, and {own} with it; {AGAIN}"
    return "\n".join([f"{own} on {socket.gethostname()} was ended by its runtime:", *log.splitlines()[-20:]])


# The process that computes


class Beats:
    """Tells the others that this process lives, and looks whether they do.

    Args:
      client: JAX's client of the coordinator's store.
    """

    def __init__(self, client: Any, place: Place) -> None:
        self._client, self._place, self._parent = client, place, os.getppid()
        self._farewell = ""  # in place of a beat: why this process fails
        self._silence = 0  # seconds for which the store has not answered
        self._over, self._ending = threading.Event(), threading.Lock()
        for work in (self._beat, self._listen):
            threading.Thread(target=work, name=work.__name__, daemon=True).start()

    def _beat(self) -> None:
        own, beats, looks = self._place.process, 0, dict[str, tuple[str, int]]()
        while not self._over.wait(BEAT):
            beats += 1
            try:
                self._tell(self._farewell or f"{beats} {socket.gethostname()}")
                found = {key.rpartition("/")[2]: value for key, value in self._client.key_value_dir_get(_ALIVE)}
            except RuntimeError:  # of a coordinator that is gone: the runtime ends this process
                continue
            self._silence = 0
            if found.pop(_END, None):
                os._exit(1)  # process 0 has said why
            for process, value in found.items():
                # Looks are counted, not seconds: after a pause of this whole machine, nobody else is late.
                before, same = looks.get(process, ("", 0))
                looks[process] = (value, same + 1 if value == before else 0)
                who = self._place.named(int(process))
                if own == 0 and value.startswith(_LEFT):
                    self._end(f"{who} {value.removeprefix(_LEFT)}")
                elif own == 0 and looks[process][1] * BEAT >= LIMIT:
                    host = value.partition(" ")[2]
                    self._end(f"{who} on {host} has not answered for {LIMIT:g} s: it died, or stands still; {AGAIN}")

    def _tell(self, value: str, key: Any = None) -> None:
        self._client.key_value_set(f"{_ALIVE}{self._place.process if key is None else key}", value, allow_overwrite=True)

    def _listen(self) -> None:
        """A store that doesn't answer, of a process 0 that stands still, blocks the thread that beats. And who has no parent, ends."""
        while not self._over.wait(1):
            self._silence += 1
            if os.getppid() != self._parent:
                os._exit(1)
            if self._silence >= LIMIT and self._place.process != 0:
                say(f"error: {self._place.named(0)} has not answered for {LIMIT:g} s: it stands still; {AGAIN}", sys.stderr)
                os._exit(1)

    def fail(self, error: BaseException) -> NoReturn:
        """End all processes because of an error at this one. Process 0 says it, once."""
        message = "interrupted" if isinstance(error, KeyboardInterrupt) else in_a_line(error)
        if message is None:
            if type(error).__name__ == "JaxRuntimeError":
                time.sleep(LIMIT + 3 * BEAT)  # if it is about a lost process, that one is named by now, and this process has ended
            traceback.print_exception(error)
            message = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        if self._place.process == 0:
            self._end(message)
        self._farewell = f"{_LEFT}on {socket.gethostname()}: {message}"
        time.sleep(LIMIT)  # the next beat tells it to process 0, which names this one and ends all
        os._exit(1)

    def _end(self, message: str) -> NoReturn:
        """At process 0: say why, let the others know, and end."""
        if not self._ending.acquire(blocking=False):
            time.sleep(LIMIT)  # another thread has said it, and ends the process
        self._over.set()
        say(f"error: {message}", sys.stderr)
        self._tell("1", _END)
        time.sleep(2 * BEAT)  # they look: an end of the coordinator itself would be another error to them
        os._exit(1)

    def leave(self) -> None:
        """Beat no more: all processes have come to the end."""
        self._over.set()


def join(place: Place) -> Beats:
    """Meet the other processes. JAX must not have computed anything yet.

    Raises:
      UserError: the environment doesn't say where this process belongs.
    """
    import jax
    from jax._src.distributed import global_state  # the store has no public name

    if watched():
        _divert(Path(os.environ[RUNTIME_LOG]))
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM for itself
    _let_the_missing_be_named(place.wait)
    given: dict[str, Any] = {"cluster_detection_method": "deactivate"} if place.coordinator else {"local_device_ids": _gpus_of_node()}
    try:
        jax.distributed.initialize(
            place.coordinator or None, place.processes, place.process, initialization_timeout=int(place.wait + 10), **given
        )
    except (ValueError, RuntimeError, OSError) as error:
        raise UserError(f"cannot join the {place.processes} processes ({error}); give --coordinator, --processes and --process") from None
    print(_JOINED, file=sys.__stderr__, flush=True)
    return Beats(global_state.client, place._replace(process=global_state.process_id))


def _divert(log: Path) -> None:
    """Let what the runtime prints go to the log, and what Python prints where it went."""
    file = os.open(log, os.O_WRONLY | os.O_APPEND)
    for name, number in (("stdout", 1), ("stderr", 2)):
        getattr(sys, name).flush()
        setattr(sys, name, os.fdopen(os.dup(number), "w", buffering=1, errors="backslashreplace"))
        os.dup2(file, number)


def _gpus_of_node() -> list[int] | None:
    """All GPUs of the node, where Slurm started one task on it. JAX would take one: it expects a task for each."""
    one_task = os.environ.get("SLURM_STEP_NUM_TASKS") == os.environ.get("SLURM_STEP_NUM_NODES", "")
    gpus = os.environ.get("SLURM_GPUS_ON_NODE", "")
    return list(range(int(gpus))) if one_task and gpus.isdecimal() else None


def _let_the_missing_be_named(wait: float) -> None:
    """Let the coordinator give up before those who wait for it: its error has the numbers of the missing. JAX doesn't ask it to."""
    from jax._src.lib import _jax

    with suppress(AttributeError):
        _jax.get_distributed_runtime_service = partial(_jax.get_distributed_runtime_service, cluster_register_timeout=int(wait))
