"""The report: the numbers of the tables, and a page that stands alone and escapes what it shows."""

import json
import math
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from alexnet_jax import config as config_lib
from alexnet_jax import history
from alexnet_jax.errors import UserError
from alexnet_jax.report.style import INK
from alexnet_jax.report.words import results_table
from alexnet_jax.report.write import write_report
from alexnet_jax.runlog import RunLog

HOSTILE = "<script>alert('x')</script> --> & $\\frac$"
DATASET = {"name": "digits", "classes": list("0123456789"), "image_shape": [28, 28, 1], "split_sizes": {"train": 1257, "test": 360}}
TEST = {
    "split": "test",
    "count": 10000,
    "diverged": [],
    "top1_error": [0.1, 0.2],
    "top5_error": [0.01, 0.0234],
    "mean_top1_error": 0.15,
    "std_top1_error": 0.0707107,
    "ensemble_top1_error": 0.09,
    "ensemble_top5_error": 0.005,
    "relative_cut": 0.4,
    "curve": [{"members": 1, "subsets": 2, "top1_error": 0.15, "std": 0.05}, {"members": 2, "subsets": 1, "top1_error": 0.09, "std": 0.0}],
}
SINGLE = TEST | {
    "top1_error": [0.1236],
    "top5_error": [0.01],
    "mean_top1_error": 0.1236,
    "std_top1_error": 0.0,
    "ensemble_top1_error": 0.12345,
}


def log_run(workdir, members=2, names=None, train_steps=range(10, 101, 10), end=None, resume=None, nan_from=None):
    """A run of ten epochs of ten steps: member m has loss 10 + m - epoch and error .9 - .05 epoch + .01 m; member 1 drops at step 45."""
    names = names or [f"seed={m}" for m in range(members)]
    offset, rate = np.arange(members), np.full(members, 0.01)
    with RunLog(workdir, 100) as log:
        log.event("start", 0, members=members, member_names=names, steps=100, steps_per_epoch=10.0, devices="1 cpu", images=640)
        for step in train_steps:
            epoch, loss = step / 10, 10 + offset - step / 10
            if nan_from is not None and step >= nan_from:
                loss[0] = math.nan
            if step > 45:
                rate[min(1, members - 1)] = 0.001
            speed = {"images_per_second": 100.0 + step, "member_images_per_second": members * (100.0 + step)}
            log.event("train", step, epoch=epoch, loss=loss, error=loss / 20, learning_rate=rate, **speed)
            if step == 40:
                log.event("drop", 45, member=min(1, members - 1), learning_rate=0.001, reason="plateau")
            if step % 20 == 0:
                errors = 0.9 - 0.05 * epoch + 0.01 * offset
                scores = {"loss": loss, "top1_error": errors, "top5_error": errors / 10, "ensemble_top1_error": errors[0] / 2}
                log.event("eval", step, split="validation", epoch=epoch, count=100, **scores)
        if end:
            log.event("end", 100, seconds=5.0, **end)
        if resume is not None:
            log.event("resume", resume)
    return history.load(workdir)


# The results as text


def test_results_table(tmp_path):
    assert results_table(log_run(tmp_path, end={"reason": "epochs", "test": TEST})).splitlines() == [
        "test, 10,000 images      top-1 error   top-5 error",
        "seed=0                       10.00 %        1.00 %",
        "seed=1                       20.00 %        2.34 %",
        "mean ± std            15.00 ± 7.07 %",
        "ensemble                      9.00 %        0.50 %",
        "relative cut                  40.0 %",
    ]


def test_results_table_of_a_single_member(tmp_path):
    assert results_table(log_run(tmp_path, members=1, end={"reason": "done", "test": SINGLE})).splitlines() == [
        "test, 10,000 images   top-1 error   top-5 error",
        "seed=0                    12.36 %        1.00 %",
    ]


@pytest.mark.parametrize(
    ("end", "resume", "text"),
    [
        (None, None, "training or interrupted, at step 100 of 100"),
        ({"reason": "stopped"}, None, "stopped"),
        ({"reason": "epochs", "test": TEST}, 40, "training or interrupted, at step 40 of 100"),  # its test is of the past
    ],
)
def test_without_a_test_the_table_says_why(tmp_path, end, resume, text):
    assert results_table(log_run(tmp_path, end=end, resume=resume)) == f"No test results: the run is {text}."


# The page


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self.attributes = [], "", []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def headings(html):
    return re.findall(r"<h2[^>]*>(.*?)</h2>", html)


def write_config(workdir, **record):
    (workdir / "config.json").write_text(json.dumps(record))


def test_the_report_of_a_finished_run(tmp_path):
    log_run(tmp_path, end={"reason": "epochs", "test": TEST})
    command = "python -m alexnet_jax.train --config configs/digits.py"
    config = json.loads(config_lib.load("configs/imagenet.py", ["optimizer.learning_rate=.02", "train.epochs=90"]).to_json())
    config["optimizer"]["of_a_newer_version"] = [1]
    write_config(tmp_path, config=config, dataset=DATASET, versions={"jax": "0.12.0"}, devices=["cpu:cpu", "cpu:cpu"], command=command)
    path = write_report(tmp_path)
    assert path == tmp_path / "report.html"
    page = Page(path.read_text())
    table = re.sub(r"\s*\n\s*", "\n", page.text)
    assert "15.00 ± 7.07 % top-1 error on the test images for one network, 9.00 % for the ensemble of 2: 40.0 % fewer errors." in table
    pairs = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", path.read_text()))
    assert re.fullmatch(r"\d min \d+ s", pairs.pop("time"))
    assert pairs == {
        "dataset": "digits: 10 classes, 28 x 28 x 1 pixels, 1,257 train, 360 test",
        "members": "2: seed=0, seed=1",
        "steps": "100 of 100",
        "epochs": "10.0 of 10.0",
        "last learning rate": "0.01, 0.001",
        "speed": "155 images/s, 310 images x members a second",
        "waiting for data": "0% of the time",
        "last validation error": "40.00 to 41.00 %",
        "command": command,
        "devices": "2 x cpu:cpu",
        "jax": "0.12.0",
    }
    assert "optimizer.learning_rate = 0.02\noptimizer.momentum = 0.9\n" in page.text
    assert "learning rate of member 1 drops to 0.001 (plateau)" in page.text
    assert "optimizer.<wbr>learning_<wbr>rate" in path.read_text()  # where a line may end in a narrow column
    cells = re.findall(r"<td>(.*?)</td>", path.read_text().replace("<wbr>", ""))
    assert cells[:6] == ["seed=0", "10.00 %", "1.00 %", "seed=1", "20.00 %", "2.34 %"]
    assert cells[-6:] == ["optimizer.learning_rate", "0.01", "0.02", "optimizer.of_a_newer_version", "–", "[1]"]  # and nothing else
    assert cells[-9:-6] == ["relative cut", "40.0 %", ""]
    assert f"python -m experiments.report {tmp_path}" in page.text


def test_the_report_stands_alone(tmp_path):
    log_run(tmp_path, end={"reason": "epochs", "test": TEST})
    page = Page(write_report(tmp_path).read_text())
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert all(value.startswith("#") for name, value in page.attributes if name in ("src", "href", "xlink:href"))
    assert "url(http" not in page.text
    assert page.tags.count("svg") == 3
    assert INK not in (tmp_path / "report.html").read_text().split("<svg")[1]  # its ink is the page's, in the dark too
    identities = [value for name, value in page.attributes if name == "id"]
    assert len(identities) == len(set(identities))  # also those within figures
    for name in ("curves", "ensemble", "throughput"):
        assert (tmp_path / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert ElementTree.parse(tmp_path / "figures" / f"{name}.svg").getroot().tag.endswith("svg")


def test_names_from_outside_cannot_become_markup(tmp_path):
    with RunLog(tmp_path, 100) as log:
        log.event("warning", 0, message=HOSTILE)
    log_run(tmp_path, names=[HOSTILE, "seed=1"], end={"reason": "epochs", "test": TEST})
    write_config(
        tmp_path,
        config={"classes": {"names": HOSTILE}},
        dataset=DATASET | {"name": HOSTILE},
        versions={HOSTILE: HOSTILE},
        devices=[HOSTILE],
        command=HOSTILE,
    )
    html = write_report(tmp_path).read_text()
    page = Page(html)
    assert "<script" not in html
    assert "script" not in page.tags
    assert (
        page.text.count(HOSTILE) == 10
    )  # happening, member, legend, result, dataset, command, device, version and its name, config's difference
    assert f"classes.names = {json.dumps(HOSTILE)}" in page.text
    ElementTree.parse(tmp_path / "figures" / "curves.svg")


def test_a_run_that_is_going_has_a_report_and_every_part_of_the_config_is_optional(tmp_path):
    log_run(tmp_path, train_steps=[10, 20])
    html = write_report(tmp_path).read_text()
    assert "Training or interrupted, at step 20 of 100." in html
    assert "There are no test results yet." in html
    assert headings(html) == ["The run", "Training", "More", "Throughput", "Log"]
    write_config(tmp_path, versions={"jax": "0.12.0"})
    assert headings(write_report(tmp_path).read_text()) == ["The run", "Training", "More", "Throughput", "Environment", "Log"]


def test_a_broken_config_is_the_users_error(tmp_path):
    log_run(tmp_path)
    (tmp_path / "config.json").write_text('{"config": ')
    with pytest.raises(UserError, match=r"config\.json"):
        write_report(tmp_path)


def test_half_a_letter_is_replaced(tmp_path):
    log_run(tmp_path)
    write_config(tmp_path, command="python \ud800")
    assert "<dd>python ?</dd>" in write_report(tmp_path).read_text()


def test_time_between_processes_does_not_count(tmp_path):
    times = [
        ("start", "10:00:00"),
        ("train", "11:10:30"),
        ("resume", "20:00:00"),
        ("train", "20:05:00"),
        ("start", "22:00:00"),
        ("note", "22:00:40"),
        ("note", "03:00:00"),  # the clock was set back
    ]
    (first, train, *_) = log_run(tmp_path / "a", train_steps=[10]).events
    fields = {"start": first | {"step": 10}, "train": train, "resume": {"step": 10}, "note": {"step": 10}}
    lines = [json.dumps(fields[kind] | {"event": kind, "time": f"2025-01-01T{time}+00:00"}) for kind, time in times]
    (tmp_path / "events.jsonl").write_text("\n".join(lines) + "\n")
    assert "<dt>time</dt><dd>1 h 16 min</dd>" in write_report(tmp_path).read_text()


def test_damaged_lines_are_counted_in_the_report(tmp_path):
    log_run(tmp_path)
    assert "damaged lines" not in write_report(tmp_path).read_text()
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"event": "train", "ste')
    assert "<dt>damaged lines of the log</dt><dd>1, left out</dd>" in write_report(tmp_path).read_text()


# The command


def run_command(*args):
    return subprocess.run([sys.executable, "-m", "experiments.report", *map(str, args)], capture_output=True, text=True, check=False)


def test_the_command_writes_each_report_and_says_where(tmp_path):
    runs = [tmp_path / "a", tmp_path / "b"]
    for run in runs:
        log_run(run, train_steps=[10])
    done = run_command(*runs)
    assert (done.returncode, done.stderr) == (0, "")
    pages = [*(run / "report.html" for run in runs), tmp_path / "comparison.html"]
    assert [os.path.abspath(line.split(" (")[0]) for line in done.stdout.splitlines()] == list(map(str, pages))
    assert "Every section about the networks is left out" in pages[0].read_text()
    assert (tmp_path / "comparison.svg").exists()


def test_the_command_refuses_what_is_no_run(tmp_path):
    done = run_command(tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr == f"error: {tmp_path} is not a run directory: it has no events.jsonl; pass a directory that alexnet_jax.train made\n"
    )


def test_a_run_that_has_logged_nothing_is_the_users_error(tmp_path):
    (tmp_path / "events.jsonl").write_text("")
    with pytest.raises(UserError, match="nothing to report yet"):
        write_report(tmp_path)


def test_help_waits_for_no_library():
    code = "import sys, experiments.report; sys.exit(len({'numpy', 'matplotlib', 'jinja2', 'jax'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
