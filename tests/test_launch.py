"""Launching: what is started, skipped, retried and stopped, here and as a Slurm array job; in place of training, what stand_in.py does."""

import fcntl
import json
import os
import re
import signal
import stat
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from alexnet_jax import config as config_lib
from alexnet_jax import history
from alexnet_jax.errors import UserError
from alexnet_jax.history import EVENTS, Follower
from experiments.ablate import __main__ as ablate
from experiments.launch import cost, processes
from experiments.launch import launch as launch_lib
from experiments.launch import progress as progress_lib
from experiments.launch import slurm as slurm_lib
from experiments.launch import task as task_lib
from experiments.launch.cost import Cost
from experiments.launch.points import Point, pack
from experiments.launch.processes import devices
from experiments.launch.progress import Progress, duration
from experiments.launch.results import FAILURE, LOG, collect, status
from experiments.launch.slurm import Slurm, minutes, run_on_slurm
from experiments.launch.task import Task, command
from experiments.launch.train import train

CONFIG = "configs/digits.py"
STAND_IN = Path(__file__).parent / "stand_in.py"


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """`programs("finish", "fail", ...)`: programs of one point and two seeds in whose place stand_in.py does these deeds."""
    deeds = {}

    def make(*names):
        points = [Point(name, {"model.width": str(0.1 + 0.1 * i)}) for i, name in enumerate(names)]
        made = pack(CONFIG, [], points, 2, tmp_path / "sweep")
        for program in made:
            deeds[program.directory] = program.points[0].name.split()[0]
            program.directory.mkdir(parents=True)
            config = config_lib.load(CONFIG, program.overrides)
            (program.directory / "config.json").write_text(json.dumps({"config": json.loads(config.to_json())}))
        return made

    def stand_in(program):
        return [sys.executable, str(STAND_IN), str(program.directory), deeds[program.directory]]

    monkeypatch.setattr(task_lib, "command", stand_in)
    monkeypatch.setattr(processes, "POLL", 0.02)
    return make


def launch(programs, *args, steps=10, **options):
    costs = {program.directory: Cost(steps, 1e9 * program.members, "float32") for program in programs}
    return launch_lib.launch(programs, costs, *args, **options)


def starts(program):
    return len(history.load(program.directory).of_kind("start"))


def wait_for(condition):
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.02)


def test_the_command_line_of_a_program():
    (program,) = pack(CONFIG, ["train.epochs=2"], [Point("any", {"learning_rate": ".1"})], 2, Path("x"))
    words = command(program)
    assert words[:7] == [sys.executable, "-m", "alexnet_jax.train", "--config", CONFIG, "--workdir", str(program.directory)]
    assert words[7:] == ["--config.train.epochs=2", "--config.ensemble.members=learning_rate=0.1, seeds=2"]


def test_failures_stop_nothing_and_only_what_is_left_is_done_again(programs, capsys):
    made = programs("finish", "fail", "finish too")
    first, failing, last = made
    errors = launch(made, jobs=2)
    assert errors == {first.directory: None, failing.directory: "ValueError: no luck", last.directory: None}
    assert (failing.directory / FAILURE).read_text() == "ValueError: no luck\n"
    assert "Traceback" in (failing.directory / LOG).read_text()
    assert [status(program.directory).state for program in made] == ["finished", "failed", "finished"]
    shown = capsys.readouterr().err
    assert f"{failing.directory.name}: ValueError: no luck" in shown
    assert "3 of 3 programs ended" in shown
    (failing.directory / "mended").touch()
    assert launch(made) == errors
    assert [starts(program) for program in made] == [1, 1, 1]
    assert set(launch(made, retry=True).values()) == {None}
    assert [starts(program) for program in made] == [1, 2, 1]
    assert not (failing.directory / FAILURE).exists()


def test_a_run_that_ended_before_its_steps_goes_on_whatever_its_config_says(programs):
    (program,) = programs("finish")
    launch([program])
    assert launch([program], steps=20) == {
        program.directory: "ended after 10 of 20 steps, since its job was submitted with fewer epochs; repeat the command to continue"
    }
    assert starts(program) == 2


def test_the_results_are_those_of_the_points(programs):
    made = programs("finish", "wait")
    launch(made[:1])
    (result,) = collect(made)
    assert (result.point, result.runs) == (made[0].points[0], ((made[0].directory, [0, 1]),))
    assert (result.seeds, result.diverged) == ([0, 1], ())
    np.testing.assert_allclose(result.validation_error, [0.01, 0.02])
    np.testing.assert_allclose(result.test_error, [0.02, 0.03])


def test_ctrl_c_lets_all_save_and_stop_and_starts_no_more(programs, capsys):
    made = programs("wait", "wait 2", "finish")
    ready = threading.Thread(
        target=lambda: (
            wait_for(lambda: all(Follower(program.directory).progress() > 0 for program in made[:2])),
            os.kill(os.getpid(), signal.SIGINT),
        )
    )
    ready.start()
    with pytest.raises(KeyboardInterrupt):
        launch(made, jobs=2)
    ready.join()
    assert [status(program.directory).state for program in made] == ["interrupted", "interrupted", "waiting"]
    assert all(history.load(program.directory).events[-1]["reason"] == "stopped" for program in made[:2])
    assert "stopping; running programs that save now: 2" in capsys.readouterr().err


def test_a_run_that_was_stopped_by_itself_did_not_fail(programs):
    (program,) = programs("wait")
    task = Task(program)
    task.start()
    wait_for(lambda: Follower(program.directory).progress() > 0)
    assert task.process is not None
    task.process.send_signal(signal.SIGTERM)
    assert task.outcome() == task_lib.STOPPED
    assert not (program.directory / FAILURE).exists()


def test_a_failure_after_a_stop_is_a_failure(programs, monkeypatch):
    (program,) = programs("wait")
    (program.directory / EVENTS).write_text('{"event": "start", "step": 0}\n{"event": "end", "step": 2, "reason": "stopped"}\n')
    monkeypatch.setattr(task_lib, "command", lambda _: [sys.executable, "-c", "import sys; sys.exit('error: no memory')"])
    task = Task(program)
    task.start()
    assert task.outcome() == "no memory"
    assert (program.directory / FAILURE).read_text() == "no memory\n"


def test_a_run_of_another_config_is_refused_and_one_that_shall_go_on_longer_does(programs):
    (program,) = programs("finish")
    launch([program])
    longer = program._replace(overrides=("train.epochs=30", *program.overrides))
    launch([longer], steps=15)
    assert starts(program) == 2
    with pytest.raises(UserError, match=r"holds a run of 20 epochs, now it is 5"):
        launch([program._replace(overrides=("train.epochs=5", *program.overrides))])
    with pytest.raises(UserError, match=r"holds a run with model.dropout=0.5, now it is 0.1"):
        launch([program._replace(overrides=("model.dropout=.1", *program.overrides))])


def test_a_finished_run_whose_rates_depend_on_its_end_does_not_go_on(programs):
    (program,) = programs("finish")
    poly = program._replace(overrides=("optimizer.schedule=poly", *program.overrides))
    config = config_lib.load(CONFIG, poly.overrides)
    (program.directory / "config.json").write_text(json.dumps({"config": json.loads(config.to_json())}))
    launch([poly])
    with pytest.raises(UserError, match=r"holds a run with train\.epochs=20\.0, now it is 30\.0"):
        launch([poly._replace(overrides=("train.epochs=30", *poly.overrides))], steps=15)
    assert starts(program) == 1


def test_two_launchers_do_not_share_a_directory(programs):
    (program,) = programs("finish")
    with open(program.directory.parent / launch_lib.LOCK, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is launching runs"):
            launch([program])
    assert status(program.directory).state == "waiting"


def test_what_another_process_trains_is_left_to_it(programs):
    (program,) = programs("finish")
    with open(program.directory / ".running", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert launch([program]) == {program.directory: "another process is training it"}


@pytest.mark.parametrize(
    ("log", "code", "error"),
    [
        ("step 5\nerror: no dataset at data/x\n", 1, "no dataset at data/x"),
        (
            "Traceback\n  File\njax.errors.JaxRuntimeError: RESOURCE_EXHAUSTED\n-----\nFor simplicity, JAX\n",
            1,
            "jax.errors.JaxRuntimeError: ",
        ),
        ("last words\n\n", 3, "last words"),
        ("", 3, "exit code 3, without any output"),
        ("step 5", -9, "killed by SIGKILL; the system does this when memory runs out"),
        ("step 5", -11, "killed by SIGSEGV"),
    ],
)
def test_the_line_that_says_why(log, code, error):
    assert task_lib._last_error(log, code).startswith(error)


@pytest.mark.parametrize(
    ("jobs", "visible", "shares"),
    [
        (1, "0,1", [{}]),
        (2, "", [{}, {}]),
        (2, "0,1,2,3", [{"CUDA_VISIBLE_DEVICES": "0,1"}, {"CUDA_VISIBLE_DEVICES": "2,3"}]),
        (2, "0,1,2", [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]),  # a batch of 128 has no third
        (
            3,
            "4,5",
            [{"CUDA_VISIBLE_DEVICES": gpu, "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.45"} for gpu in ("4", "5", "4")],
        ),
    ],
)
def test_simultaneous_processes_share_out_the_gpus(jobs, visible, shares):
    assert devices(jobs, {"CUDA_VISIBLE_DEVICES": visible}) == shares


# The progress


def test_the_time_left_follows_from_the_pace_of_this_session(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress_lib.time, "monotonic", lambda: now[0])
    done, resumed, long = Path("done"), Path("resumed"), Path("long")
    with Progress({done: 1, resumed: 1, long: 2}, [done]) as shown:
        assert shown.line() == "1 of 3 programs ended, 25% of the work, 0 s passed"
        shown.update(resumed, 0.6)  # where it goes on
        now[0] = 60.0
        shown.update(resumed, 0.8)
        assert shown.line() == "1 of 3 programs ended, 45% of the work, 60 s passed, about 11 min left"  # 0.2 in a minute, 2.2 to do
        shown.finished(resumed, "out of memory")
        assert shown.line() == "2 of 3 programs ended, 45% of the work, 60 s passed, about 10 min left"
        shown.update(long, 1.0)  # it had finished, and shall train longer
        now[0] = 70.0
        shown.update(long, 0.5)
        shown.update(long, 0.75)
        now[0] = 60.0
        assert shown.line() == "2 of 3 programs ended, 82% of the work, 60 s passed, about 43 s left"
        shown.finished(long, None)
        assert shown.line() == "3 of 3 programs ended, 95% of the work, 60 s passed"


def test_networks_that_come_later_take_as_long_as_those_that_are_left(programs, monkeypatch, capsys):
    made = programs("finish", "wait")
    monkeypatch.setattr(cost, "check", lambda programs: [Cost(10, 1, "float32")] * len(programs))
    monkeypatch.setattr(cost, "estimate", lambda *_, **more: cost.Estimate(60, "a guess", False))
    monkeypatch.setattr(cost, "left", lambda directory, *_: 0.5 if directory == made[1].directory else 0)
    args = config_lib.parse_command_line(ablate.parser(), ["--config", CONFIG, "--factors", "lrn", "--out", "x", "--dry-run"])
    assert not train(made, made[0].directory.parent, args, later=3)
    assert "with about 3 networks that depend on their results: 4 min" in capsys.readouterr().out  # one of four networks is left


def test_durations_are_for_reading():
    assert [duration(seconds) for seconds in (3.4, 89, 90, 5340, 5400, 86400 * 2.5)] == [
        "3 s",
        "89 s",
        "2 min",
        "89 min",
        "1 h 30 min",
        "2 d 12 h",
    ]


# Slurm


@pytest.mark.parametrize(
    ("text", "expected"), [("90", 90), ("90:30", 91), ("12:00:00", 720), ("2-0", 2880), ("1-12:30", 2190), ("1-00:00:01", 1441)]
)
def test_times_are_slurms(text, expected):
    assert minutes(text) == expected


@pytest.mark.parametrize("text", ["", "soon", "1:2:3:4", "0", "1-"])
def test_a_time_that_is_none(text):
    with pytest.raises(UserError, match="--time"):
        minutes(text)


def test_an_sbatch_option_that_is_none():
    with pytest.raises(UserError, match="write it as NAME=VALUE"):
        Slurm(extra=("exclusive",)).parameters(1)


def test_without_slurm_there_is_no_slurm(programs, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="this machine has no Slurm"):
        launch(programs("finish"), slurm=Slurm())


SBATCH = """#!/bin/sh
# Runs a job, or the tasks of an array at once, on this machine; from a copy of the script, as Slurm does.
for given; do :; done
script=$(dirname "$0")/script.sh
cp "$given" "$script"
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$script")
export SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1 SLURM_NODEID=0 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_JOB_NODELIST=here
if [ -z "$last" ]; then
  SLURM_JOB_ID=12 sh "$script" >/dev/null 2>&1 &
else
  for task in $(seq 0 "$last"); do
    SLURM_ARRAY_JOB_ID=12 SLURM_ARRAY_TASK_ID=$task SLURM_JOB_ID=$((13 + task)) sh "$script" >/dev/null 2>&1 &
  done
fi
echo "Submitted batch job 12"
"""
SRUN = """#!/bin/sh
while :; do
  case $1 in
    --output|--error) shift 2 ;;
    --*) shift ;;
    *) break ;;
  esac
done
exec "$@"
"""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A directory in PATH with an sbatch that keeps its script and runs it, an srun, and a sacct that knows nothing."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for name, script in (("sbatch", SBATCH), ("srun", SRUN), ("sacct", "#!/bin/sh\n")):
        path = directory / name
        path.write_text(script)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    monkeypatch.setattr(slurm_lib, "POLL", 0.1)
    return directory


def test_slurm_gets_one_array_job_with_what_was_asked_for(programs, cluster):
    made = programs("finish", "fail", "finish too")
    asked = Slurm(
        partition="gpu",
        gpus=2,
        minutes=90,
        cpus=4,
        memory_gb=64,
        account="vision",
        qos="low",
        setup=("module load cuda",),
        extra=("nice=10",),
    )
    errors = launch(made, slurm=asked, jobs=2)
    assert list(errors.values()) == [None, "ValueError: no luck", None]
    script = (cluster / "script.sh").read_text()
    flags = dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", script, re.M))
    wanted = {
        "array": "0-2%2",
        "partition": "gpu",
        "gpus-per-node": "2",
        "time": "90",
        "cpus-per-task": "4",
        "mem": "64GB",
        "account": "vision",
        "qos": "low",
        "nice": "10",
        "nodes": "1",
        "ntasks-per-node": "1",
        "signal": "USR2@90",
        "job-name": "alexnet_jax",
    }
    assert {name: flags.get(name) for name in wanted} == wanted
    assert "module load cuda" in script.splitlines()
    assert [json.loads((program.directory / slurm_lib.JOB).read_text())["id"] for program in made] == ["12_0", "12_1", "12_2"]
    assert [status(program.directory).state for program in made] == ["finished", "failed", "finished"]


def test_what_slurm_refuses_is_told_in_its_words(programs, cluster):
    (cluster / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition specified: gpu' >&2\nexit 1\n")
    (program,) = programs("finish")
    with pytest.raises(UserError, match="Slurm refuses the job: sbatch: error: invalid partition specified: gpu"):
        launch([program], slurm=Slurm(partition="gpu"))
    assert not (program.directory / slurm_lib.JOB).exists()


def test_a_single_program_is_a_job_of_its_own(programs, cluster):
    (program,) = programs("finish")
    assert launch([program], slurm=Slurm(gpus=0)) == {program.directory: None}
    script = (cluster / "script.sh").read_text()
    assert "--array" not in script
    assert "--gpus" not in script
    assert json.loads((program.directory / slurm_lib.JOB).read_text())["id"] == "12"


def test_jobs_outlive_ctrl_c_and_are_not_submitted_twice(programs, cluster, capsys, monkeypatch):
    waiting, done = made = programs("wait", "finish")
    ready = threading.Thread(
        target=lambda: (wait_for(lambda: Follower(waiting.directory).progress() > 0), os.kill(os.getpid(), signal.SIGINT)),
    )
    ready.start()
    with pytest.raises(KeyboardInterrupt):
        launch(made, slurm=Slurm())
    ready.join()
    assert re.search(r"the jobs go on; .* scancel 12_0", capsys.readouterr().err)
    submit = slurm_lib._submit  # when this is called the second command has asked after the first one's jobs, so that one may end
    monkeypatch.setattr(slurm_lib, "_submit", lambda *args: (waiting.directory / "mended").touch() or submit(*args))
    with open(waiting.directory / ".running", "w") as lock:  # as a training holds it that runs on a node
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert launch(made, slurm=Slurm()) == {waiting.directory: None, done.directory: None}
    assert "job 12_0, submitted before" in capsys.readouterr().err
    assert [starts(program) for program in made] == [1, 1]


def test_several_nodes_train_a_program_together(programs, monkeypatch):
    asked = Slurm(nodes=4, gpus=8).parameters(1)
    assert (asked["nodes"], asked["tasks_per_node"], asked["gpus_per_node"]) == (4, 1, 8)
    with pytest.raises(UserError, match="--nodes 0: a program needs at least one"):
        Slurm(nodes=0).parameters(1)
    (program,) = programs("fail")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    for node, kept in (("3", False), ("0", True)):
        monkeypatch.setenv("SLURM_PROCID", node)
        assert Task(program)() == "ValueError: no luck"
        assert (program.directory / FAILURE).exists() == kept
    assert (program.directory / f"node3-{LOG}").exists()


def test_a_task_near_the_end_of_its_time_saves_and_queues_again(programs):
    (program,) = programs("wait")
    task = Task(program)
    task.start()
    wait_for(lambda: Follower(program.directory).progress() > 0)
    assert task.process is not None
    task.process.send_signal(signal.SIGUSR2)  # Slurm's warning reaches the training too, which must not mind
    time.sleep(0.3)
    assert not task.poll()
    again = task.checkpoint()
    assert task.poll()
    assert history.load(program.directory).events[-1]["reason"] == "stopped"
    assert again.function.program == program
    assert again.function.process is None


def test_a_preempted_task_waits_for_the_warning_that_queues_it_again(programs, monkeypatch):
    (program,) = programs("wait")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setattr(task_lib, "WARNING", 0.5)
    task = Task(program)
    stopped = []

    def preempt():
        wait_for(lambda: Follower(program.directory).progress() > 0)
        assert task.process is not None
        task.process.send_signal(signal.SIGTERM)
        stopped.append(time.monotonic())

    preemption = threading.Thread(target=preempt)
    preemption.start()
    assert task() == task_lib.STOPPED
    preemption.join()
    assert time.monotonic() - stopped[0] > 0.5


def test_submitits_local_executor_runs_the_tasks(programs):
    made = programs("finish", "fail")
    with Progress({program.directory: 1.0 for program in made}) as shown:
        errors = run_on_slurm(made, Slurm(gpus=0), shown, 2, cluster="local")
    assert errors == {made[0].directory: None, made[1].directory: "ValueError: no luck"}
    assert len(collect(made)) == 1
