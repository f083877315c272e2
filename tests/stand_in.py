"""Stands in for alexnet_jax.train where a test is about what launches it: `python tests/stand_in.py DIR DEED` leaves a run's log in DIR.

finish   ten steps, an evaluation, a test: member m errs on (m + 1) % of the validation and (m + 2) % of the test images
fail     an error after a first step
wait     a step, then nothing until a signal, upon which it ends as a stopped run does

Where DIR holds a file `mended`, all of them finish.
"""

import json
import signal
import sys
import time
from pathlib import Path

PATIENCE = 60.0  # seconds after which nobody is waiting any more


def evaluation(top1_error, loss, split="validation"):
    """The fields of an eval event, but its epoch."""
    each = {"loss": loss, "top1_error": top1_error, "top5_error": top1_error}
    return {"split": split, "count": 100, **each, "ensemble_top1_error": min(top1_error)}


def results_of(top1_error, nll, split="test"):
    """The results of a finished run on its test split."""
    each = {"top1_error": top1_error, "top5_error": top1_error, "nll": nll}
    names = ("mean_top1_error", "std_top1_error", "ensemble_top1_error", "ensemble_top5_error", "relative_cut")
    members = [f"seed={m}" for m in range(len(top1_error))]
    return {"split": split, "count": 100, "members": members, **each, **dict.fromkeys(names, 0.1), "diverged": [], "curve": []}


def main(directory: Path, deed: str) -> int:
    stopped = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.append(True))

    def event(kind, step, **fields):
        with open(directory / "events.jsonl", "a") as log:
            log.write(json.dumps({"event": kind, "step": step, "time": "2025-01-01T00:00:00+00:00"} | fields) + "\n")

    event("start", 0, members=2, member_names=["a", "b"], steps=10, steps_per_epoch=10.0, devices="none", images=640)
    event("checkpoint", 1, path="checkpoints/1")
    mended, started = directory / "mended", time.monotonic()
    if deed == "fail" and not mended.exists():
        raise ValueError("no luck")
    while deed == "wait" and not stopped and not mended.exists() and time.monotonic() < started + PATIENCE:
        time.sleep(0.02)
    if stopped:
        event("end", 2, reason="stopped", seconds=1.0)
        return 1
    event("eval", 10, epoch=1.0, **evaluation([0.01, 0.02], [0.5, 0.5]))
    event("end", 10, reason="epochs", seconds=2.0, test=results_of([0.02, 0.03], [0.5, 0.5]))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
