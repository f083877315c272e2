"""Several processes: how they find each other, what they say to each other, what happens when one is lost."""

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack

import numpy as np
import pytest

from alexnet_jax import cluster
from alexnet_jax.cluster import Place
from alexnet_jax.errors import STOPPED, UserError

VARIABLES = (
    "SLURM_STEP_NUM_TASKS",
    "SLURM_PROCID",
    "OMPI_COMM_WORLD_SIZE",
    "OMPI_COMM_WORLD_RANK",
    "TPU_WORKER_HOSTNAMES",
    "TPU_WORKER_ID",
)


def place(*words, **environment):
    parser = argparse.ArgumentParser()
    cluster.add_arguments(parser)
    with pytest.MonkeyPatch.context() as patch:
        for name in VARIABLES:
            patch.delenv(name, raising=False)
        for name, value in environment.items():
            patch.setenv(name, value)
        return cluster.place(parser.parse_args(words))


def test_where_nothing_says_otherwise_there_is_one_process():
    assert place() == Place()
    assert place("--coordinator", "node1:9000", "--processes", "1", "--process", "0").processes == 1


def test_launchers_say_which_process_this_is():
    assert place(SLURM_STEP_NUM_TASKS="4", SLURM_PROCID="2") == Place(4, 2)
    assert place("--wait", "20", OMPI_COMM_WORLD_SIZE="2", OMPI_COMM_WORLD_RANK="1") == Place(2, 1, wait=20)
    assert place(TPU_WORKER_HOSTNAMES="a,b", TPU_WORKER_ID="1") == Place(2, 1)


def test_a_task_alone_and_a_shell_in_an_allocation_are_one_process():
    assert place(SLURM_NTASKS="4", SLURM_PROCID="0", SLURM_JOB_ID="7", SLURM_STEP_NODELIST="node1") == Place()  # a batch script, salloc
    assert place(SLURM_STEP_NUM_TASKS="1", SLURM_NTASKS="4", SLURM_PROCID="0") == Place()  # srun --pty bash
    with pytest.raises(UserError, match="the environment has SLURM_PROCID='', which is no number; unset it"):
        place(SLURM_STEP_NUM_TASKS="4", SLURM_PROCID="")
    assert place(OMPI_COMM_WORLD_SIZE="1", OMPI_COMM_WORLD_RANK="0", TPU_WORKER_HOSTNAMES="localhost", TPU_WORKER_ID="0") == Place()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--coordinator", "node1:9000"], "belong together"),
        (["--coordinator", "node1:9000", "--processes", "2"], "belong together"),
        (["--process", "1"], "belong together"),
        (["--coordinator", "node1:9000", "--processes", "2", "--process", "2"], "numbered from 0"),
        (["--coordinator", "node1", "--processes", "2", "--process", "1"], "write HOST:PORT"),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(words, message):
    with pytest.raises(UserError, match=message):
        place(*words)


SAYS = """
import sys
import numpy as np
from alexnet_jax import cluster, exchange, parallel
from alexnet_jax.errors import UserError, run_cli

own, exchange.AT_ONCE, exchange.LARGE, cluster.BEAT = int(sys.argv[1]), 1000, 100, 0.2
with parallel.started(cluster.Place(2, own, sys.argv[2], 60)):
    import jax
    assert exchange.process() == (own, 2) and exchange.is_first() == (own == 0)
    said = exchange.first_says(lambda: {"process": own, "large": np.arange(700.0), "nested": exchange.first_says(lambda: 3)})
    assert (said["process"], said["nested"]) == (0, 3) and np.array_equal(said["large"], np.arange(700.0))
    assert exchange.everyone_says(own + 5) == [5, 6]
    assert exchange.any_says(own == 1) and not exchange.any_says(False)
    assert exchange.differences({"a": own, "b": 1}) == ({"a": (0, 1)} if own else {})
    batches = iter([{"index": np.arange(own, 8, 2), "image": np.arange(own, 8, 2)}])
    batch = next(parallel.whole_but_images(batches))
    assert batch["index"].tolist() == list(range(8)) and batch["image"].tolist() == list(range(own, 8, 2))
    answers = np.arange(own, 8, 2, dtype=np.float32).reshape(1, 2, 2, 1) + np.array([[[[0.0]]], [[[10.0]]]], np.float32)  # of two members
    assert parallel.gather(answers)[..., 0].tolist() == [list(range(8)), list(range(10, 18))]
    tree = {"leaf": np.arange(24).reshape(8, 3), "step": np.int32(2)}
    placed = parallel.place(tree, divided=True)
    assert placed["leaf"].shape == (4, 2, 3) and placed["leaf"].addressable_data(0).shape == (1, 2, 3)
    assert np.array_equal(parallel.on_host(parallel.within_reach(placed, True), True)["leaf"], tree["leaf"])
    assert parallel.member(placed, 5, 2, True)["leaf"].tolist() == [15, 16, 17]
    assert parallel.even(5) == 8
    shares = parallel.shard({"index": np.arange(4)}, lambda: own == 1)
    assert [int(each.data[0]) for each in shares[parallel.CALL].addressable_shards] == [own, own]
    print("all was said")
    if own:
        raise UserError("no data here")
    exchange.any_says(False)  # waits for the other, which doesn't come
"""


def free_port():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def flags(devices):
    return {**os.environ, "XLA_FLAGS": re.sub(r"device_count=\d+", f"device_count={devices}", os.environ["XLA_FLAGS"])}


def test_two_processes_say_what_one_alone_knows_and_an_error_at_one_ends_both_by_name():
    address = f"localhost:{free_port()}"
    commands = [[sys.executable, "-c", SAYS, str(own), address] for own in range(2)]
    both = [subprocess.Popen(each, env=flags(2), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for each in commands]
    outputs = [process.communicate(timeout=120) for process in both]
    assert all("all was said" in output for output, _ in outputs), outputs
    assert [process.returncode for process in both] == [1, 1]
    errors = [line for _, error in outputs for line in error.splitlines() if line.startswith("error:")]
    assert errors == [f"error: process 1 of 2 on {socket.gethostname()}: no data here"]


# The whole job


class Job:
    """A training in one process of some devices, or in several of two devices each."""

    def __init__(self, stack, workdir, data, *overrides, processes=1, devices=2, members=2, wait=120):
        tiny = (f"data.dir={data}", "model.width=0.04", "train.batch_size=40", "train.log_every_steps=1", "eval.batch_size=64")
        command = [sys.executable, "-m", "alexnet_jax.train", "--config", f"configs/digits.py:members={members}", "--workdir", str(workdir)]
        command += [f"--config.{item}" for item in (*tiny, *overrides)]
        self.workdir, address = workdir, f"localhost:{free_port()}"
        self.processes, self.earlier = [], len(self.events("train"))
        for own in range(processes):
            joins = ["--coordinator", address, "--processes", str(processes), "--process", str(own), "--wait", str(wait)]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            process = stack.enter_context(subprocess.Popen([*command, *(joins if processes > 1 else [])], env=flags(devices), **pipes))
            stack.callback(process.kill)
            self.processes.append(process)

    def ends(self, timeout=300):
        """The exit codes, and the lines of errors."""
        outputs = [process.communicate(timeout=timeout) for process in self.processes]
        assert not any(re.search("Traceback|Gloo|coordination", error) for _, error in outputs), outputs
        errors = [line for _, error in outputs for line in error.splitlines() if line.startswith("error:")]
        return [process.returncode for process in self.processes], errors

    def reaches(self, step, timeout=120):
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            if any(event["step"] >= step for event in self.events("train")[self.earlier :]):
                return
            time.sleep(0.1)
        raise AssertionError(f"{self.workdir} hasn't reached step {step}: {[process.poll() for process in self.processes]}")

    def events(self, *kinds):
        path = self.workdir / "events.jsonl"
        events = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [event for event in events if event["event"] in kinds]

    def losses(self):
        """(steps, M): each step's, of its last run."""
        found = {event["step"]: event["loss"] for event in self.events("train")}
        return np.array([found[step] for step in sorted(found)])

    def computes(self, own):
        """The process that computes, whose parent is the one that was started."""
        children = subprocess.run(["pgrep", "-P", str(self.processes[own].pid)], capture_output=True, text=True, check=True).stdout
        return int(children.split()[0])


@pytest.fixture
def job(digits_dir):
    with ExitStack() as stack:
        yield lambda workdir, *overrides, **options: Job(stack, workdir, digits_dir, *overrides, **options)


@pytest.mark.slow
@pytest.mark.parametrize("members", [1, 4])
def test_processes_devices_and_the_split_do_not_change_the_run(members, job, tmp_path):
    short = ("train.epochs=0.32", "eval.every_epochs=0.16", f"parallel.split={'data' if members == 1 else ''}")
    runs = {
        "one": job(tmp_path / "one", *short, devices=1, members=members),
        "four": job(tmp_path / "four", *short, devices=4, members=members),
        "two by two": job(tmp_path / "two by two", *short, processes=2, members=members),
    }
    for name, run in runs.items():
        assert run.ends() == ([0] * len(run.processes), []), name
        np.testing.assert_allclose(run.losses(), runs["one"].losses(), rtol=1e-5, err_msg=name)
        assert len(run.losses()) == 10
        for found, expected in zip(run.events("eval"), runs["one"].events("eval"), strict=True):
            assert (found["count"], found["top1_error"]) == (expected["count"], expected["top1_error"])
            np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-5)
        assert run.events("end")[0]["test"]["top1_error"] == runs["one"].events("end")[0]["test"]["top1_error"]
        assert len(run.events("split")) == (name != "one")


def assert_evaluated_alike(workdir):
    """`evaluate` on two processes writes what it writes on one."""
    command, address = [sys.executable, "-m", "alexnet_jax.evaluate", "--run", str(workdir)], f"localhost:{free_port()}"
    subprocess.run(command, env=flags(1), check=True, capture_output=True)
    alone = json.loads((workdir / "evaluation-test.json").read_text())
    joins = [["--coordinator", address, "--processes", "2", "--process", str(own)] for own in range(2)]
    both = [subprocess.Popen([*command, *each], env=flags(2), stdout=subprocess.DEVNULL) for each in joins]
    assert [process.wait(120) for process in both] == [0, 0]
    together = json.loads((workdir / "evaluation-test.json").read_text())
    assert together.keys() == alone.keys()
    for name in ("count", "top1_error", "top5_error", "ensemble_top1_error"):
        assert together[name] == alone[name]
    np.testing.assert_allclose(together["nll"], alone["nll"], rtol=1e-5)


@pytest.mark.slow
def test_a_command_a_signal_and_a_resume_on_other_processes(job, tmp_path):
    """A drop, then SIGTERM at process 1; goes on on one process of one device, and ends as if it had always been one process."""
    rate = ("optimizer.learning_rate=.002", "train.epochs=1.6")
    run = job(tmp_path / "run", *rate, processes=2, members=4)
    run.reaches(3)
    subprocess.run([sys.executable, "-m", "alexnet_jax.control", str(run.workdir), "drop", "--factor", ".5"], check=True)
    run.reaches(run.events("drop")[0]["step"] + 3)
    run.processes[1].send_signal(signal.SIGTERM)
    assert run.ends() == ([STOPPED, STOPPED], [])
    assert run.events("end")[0]["reason"] == "stopped"
    assert run.events("end")[0]["step"] < 50
    again = job(tmp_path / "run", *rate, "parallel.split=data", devices=1, members=4)
    assert again.ends() == ([0], [])
    assert again.events("resume")[0]["step"] == run.events("end")[0]["step"]
    assert_evaluated_alike(run.workdir)
    alone = job(tmp_path / "alone", *rate, f"plateau.mode=replay:{run.workdir}", devices=1, members=4)
    assert alone.ends() == ([0], [])
    np.testing.assert_allclose(again.losses()[:50], alone.losses()[:50], rtol=1e-4)
    np.testing.assert_allclose(again.losses()[:10], alone.losses()[:10], rtol=1e-5)


@pytest.mark.slow
def test_a_run_moves_from_four_devices_to_two_processes_to_one_device(job, tmp_path):
    """Under the other split each time, in the middle of an epoch each time."""
    places = [("0.25", {"devices": 4}), ("0.45", {"processes": 2}), ("0.64", {"devices": 1})]
    for (epochs, where), split in zip(places, ("data", "members", "data"), strict=True):
        moved = job(tmp_path / "moved", f"train.epochs={epochs}", f"parallel.split={split}", members=4, **where)
        assert moved.ends() == ([0] * len(moved.processes), [])
    alone = job(tmp_path / "alone", "train.epochs=0.64", devices=1, members=4)
    assert alone.ends() == ([0], [])
    assert len(moved.losses()) == 20
    np.testing.assert_allclose(moved.losses(), alone.losses(), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_dies_or_stands_still_ends_the_others_by_name_and_the_run_goes_on(lost, number, job, tmp_path):
    run = job(tmp_path, "train.epochs=100", "train.checkpoint_every_epochs=0.1", processes=2)
    run.reaches(8)
    child = run.computes(lost)
    os.kill(child, number)
    survivor = run.processes[1 - lost]
    started = time.monotonic()
    _, error = survivor.communicate(timeout=90)
    assert time.monotonic() - started < 60
    assert survivor.returncode == 1
    (line,) = [line for line in error.splitlines() if line.startswith("error:")]
    assert f"process {lost}" in line
    if number == signal.SIGSTOP:
        os.kill(child, signal.SIGKILL)
    run.processes[lost].communicate(timeout=60)
    saved = run.events("checkpoint")[-1]["step"]
    again = job(tmp_path, "train.epochs=100", processes=2)
    again.reaches(saved + 3)
    again.processes[0].send_signal(signal.SIGINT)
    assert again.ends() == ([STOPPED, STOPPED], [])
    assert again.events("resume")[0]["step"] >= saved


@pytest.mark.slow
def test_processes_of_different_configs_are_refused(job, tmp_path, digits_dir):
    run = job(tmp_path / "run", processes=2)
    run.processes[1].kill()
    command = [word.replace("train.batch_size=40", "train.batch_size=44") for word in run.processes[1].args]
    run.processes[1].communicate()
    run.processes[1] = subprocess.Popen(command, env=flags(2), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    codes, errors = run.ends()
    assert codes == [1, 1]
    assert re.search(r"process 1 of 2 on .*: train.batch_size is 44 here and 40 at process 0", "".join(errors))


@pytest.mark.slow
def test_a_process_that_never_comes_is_waited_for_and_named(job, tmp_path):
    run = job(tmp_path, processes=3, wait=20)
    run.processes[1].kill()
    run.processes.pop(1)
    codes, errors = run.ends()
    assert codes == [1, 1]
    assert "error: process 1 of 3 did not come within 20 s (--wait)" in errors
    assert not (tmp_path / "events.jsonl").exists()


@pytest.mark.slow
def test_a_disk_of_its_own_for_each_process_and_a_first_process_without_the_run(job, tmp_path, digits_dir):
    """Process 0 has the run. Where another one has it, the run would begin anew in silence."""
    (tmp_path / "one").mkdir()
    first = job(tmp_path / "one" / "run", "train.epochs=0.1")
    assert first.ends() == ([0], [])
    command = [sys.executable, "-m", "alexnet_jax.train", "--config", f"{os.getcwd()}/configs/digits.py:members=2", "--workdir", "run"]
    command += [f"--config.{item}" for item in (f"data.dir={digits_dir}", "model.width=0.04", "train.batch_size=40", "train.epochs=0.2")]
    for order, code in (((0, 1), 0), ((1, 0), 1)):
        address = f"localhost:{free_port()}"
        both = []
        for own, disk in enumerate(order):
            where = tmp_path / ("one", "other")[disk]
            where.mkdir(exist_ok=True)
            joins = ["--coordinator", address, "--processes", "2", "--process", str(own)]
            environment = {**flags(2), "PYTHONPATH": os.getcwd()}
            both.append(subprocess.Popen([*command, *joins], cwd=where, env=environment, stderr=subprocess.PIPE, text=True))
        errors = [process.communicate(timeout=300)[1] for process in both]
        assert [process.returncode for process in both] == [code, code], errors
        if code:
            assert re.search(r"process 1 has checkpoint \d+ in its run, and process 0 doesn't", "".join(errors))
        else:
            assert not (tmp_path / "other" / "run").exists()


# The recipes, with stand-ins for the cluster


@pytest.fixture
def recipe(tmp_path, digits_dir):
    """Runs a script of experiments/cluster/ with stand-ins for programs of the cluster, on a tiny training."""

    def run(script, *words, **programs):
        for name, text in programs.items():
            (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
            (tmp_path / name).chmod(0o755)
        tiny = (f"data.dir={digits_dir}", "model.width=0.04", "train.batch_size=40", "train.epochs=0.1")
        arguments = ["--config", "configs/digits.py:members=2", "--workdir", str(tmp_path / "run"), *(f"--config.{item}" for item in tiny)]
        path = f"{tmp_path}:{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
        environment = {**flags(2), "PATH": path, "SSH": "ssh", "PYTHON": sys.executable, "PORT": str(free_port()), "SLURM_JOB_ID": "7"}
        return subprocess.run(
            ["bash", f"experiments/cluster/{script}", *words, *arguments], env=environment, capture_output=True, text=True
        )

    return run


SRUN = """
shift  # --kill-on-bad-exit=0
export SLURM_LOCALID=0 SLURM_STEP_NODELIST=localhost SLURM_NTASKS=2 SLURM_STEP_NUM_TASKS=2 SLURM_STEP_NUM_NODES=2 JAX_COORDINATOR_PORT=$PORT
SLURM_PROCID=0 "$@" & first=$!
SLURM_PROCID=1 "$@" & second=$!
wait $first; code=$?
wait $second && exit $code
"""


@pytest.mark.slow
def test_the_recipe_for_slurm_starts_processes_that_find_each_other(recipe, tmp_path):
    done = recipe("train.sbatch", srun=SRUN, scontrol="exit 1")
    assert done.returncode == 0, done.stderr
    assert "on 4 x cpu" in done.stderr
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.slow
def test_the_recipe_for_ssh_tells_each_host_its_place(recipe, tmp_path):
    done = recipe("ssh.sh", "localhost 127.0.0.1", ssh='shift; exec bash -c "$1"')
    assert done.returncode == 0, done.stderr
    assert "on 4 x cpu" in done.stderr
    assert (tmp_path / "run" / "report.html").exists()
