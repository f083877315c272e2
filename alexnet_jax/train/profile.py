"""Traces some steps of a run: what the devices and the host do, and when. `--profile STEPS` of the training command asks for it.

The loop (loop.py) owns a `Profile` and steps with the program that it watches:

    with Profile(workdir / "profile", steps=10, log=log) as profile:
        program = profile.watch(program, first=0)    # of its calls, the second and the nine after it are traced

TensorBoard shows the directory if its profile plugin is installed (`pip install tensorboard xprof`), Perfetto the file
`perfetto_trace.json.gz`. A traced step is slower on the host, since Python's calls are traced too.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from alexnet_jax.runlog import RunLog

STEP = "train_step"  # the name of a step in the trace


class Profile:
    """The trace of a run; a context manager, so that a run that ends too soon keeps what was traced. With no steps there is none.

    Args:
      directory: each trace gets a folder of its own there, named after the time.
      log: learns where the trace is.
    """

    def __init__(self, directory: Path, steps: int, log: RunLog) -> None:
        self._directory, self._steps, self._log = directory, steps, log
        self._traced: list[int] = []  # numbers of the steps
        self._tracing = False

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *_: object) -> None:
        if self._tracing:
            self._stop()

    def watch(self, program: Callable, first: int) -> Callable:
        """The program of a step, which is traced at its second call: the first one also prepares what later calls find ready.

        Args:
          program: `program(parts, controls, batch) -> (parts, metrics)`, already compiled.
          first: the number of steps that the run had done before the first call.
        """
        if not self._steps:
            return program
        number = first

        def watched(parts: Any, controls: Any, batch: Any) -> Any:
            nonlocal number
            number += 1
            if number == first + 2:
                self._start(parts)
            if not self._tracing:
                return program(parts, controls, batch)
            with jax.profiler.StepTraceAnnotation(STEP, step_num=number):
                results = program(parts, controls, batch)
            self._traced.append(number)
            if len(self._traced) == self._steps:
                jax.block_until_ready(results)
                self._stop()
            return results

        return watched

    def _start(self, parts: Any) -> None:
        jax.block_until_ready(parts)  # the step before stays out of the trace
        jax.profiler.start_trace(self._directory, create_perfetto_trace=True)
        self._tracing = True

    def _stop(self) -> None:
        """Write the trace, and say where it is. A disk that refuses it costs the run no step."""
        self._tracing = False
        first, last = self._traced[0], self._traced[-1]
        steps = f"steps {first:,} to {last:,}" if first < last else f"step {last:,}"
        try:
            jax.profiler.stop_trace()
        except (OSError, RuntimeError, ValueError) as error:
            self._log.event("warning", last, message=f"the trace of {steps} can't be written: {error}")
            return
        shown = f"TensorBoard shows it with --logdir {self._directory}, https://ui.perfetto.dev its perfetto_trace.json.gz"
        self._log.event("profile", last, message=f"the trace of {steps} is in {self._directory}; {shown}")
