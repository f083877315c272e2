"""Results on the pages are those of the files."""

import json
import re
import shlex
import shutil
import textwrap

import numpy as np
import pytest

from alexnet_jax.errors import UserError
from alexnet_jax.history import plain
from alexnet_jax.runlog import RunLog
from experiments import publish, verdicts
from experiments.ablate import comparison
from experiments.ablate.files import HOW_TO_READ
from experiments.benchmark.settings import Settings
from experiments.benchmark.table import Table
from experiments.launch.points import Point, pack
from experiments.sweep import ranking, record
from tests.stand_in import evaluation, results_of

START = {"members": 2, "member_names": ["seed=0", "seed=1"], "steps": 12, "steps_per_epoch": 10.0, "devices": "1 cpu", "images": 500}
TEST = {
    **results_of([0.1, 0.08], [0.5, 0.5]),
    "members": ["seed=0", "seed=1"],
    "count": 200,
    "mean_top1_error": 0.09,
    "std_top1_error": 0.0141,
    "ensemble_top1_error": 0.07,
    "relative_cut": 0.222,
    "disagreement": 0.05,
}
PAGE = "# Page\n<!-- result two -->\nold\n<!-- end of result -->\nmore\n"


@pytest.fixture
def run(tmp_path):
    """A finished run of two members, with an evaluation with mirror images beside it."""
    directory = tmp_path / "run"
    (directory / "figures").mkdir(parents=True)
    (directory / "figures" / "ensemble.png").write_bytes(b"picture")
    config = {
        "command": "python -m alexnet_jax.train --config x",
        "devices": ["1 x cpu Fast (2 cores)"],
        "versions": {"python": "3.11", "jax": "0.10"},
        "dataset": {"name": "digits"},
        "config": {"train": {"epochs": 2.0, "batch_size": 50}},
    }
    (directory / "config.json").write_text(json.dumps(config))
    with RunLog(directory, 12) as log:
        log.event("start", 0, **START)
        for step in (1, 2, 3):
            values = {"loss": [0.5] * 2, "error": [0.5] * 2, "learning_rate": [0.1] * 2}
            log.event("train", step, epoch=0.1 * step, images_per_second=5.0 * step, member_images_per_second=10.0 * step, **values)
        log.event("end", 12, reason="epochs", seconds=1.0, test=TEST)
    ten = {
        **TEST,
        "ensemble_top1_error": 0.06,
        "protocol": {"split": "test", "step": 12, "views": 10, "input_size": 28, "stored_size": 28},
        "runs": ["/somewhere"],
        "steps": [12],
    }
    (directory / "evaluation-test-ten-crop.json").write_text(json.dumps(ten))
    root = tmp_path / "root"
    (root / "docs").mkdir(parents=True)
    (root / "README.md").write_text(PAGE)
    for page in ("results", "performance", "understanding"):
        (root / "docs" / f"{page}.md").write_text(PAGE)
    return directory, root


def test_a_run_is_kept_and_shown(run):
    directory, root = run
    publish.keep("two", directory, root)
    assert publish.render(root) == list(publish.PAGES)
    page = (root / "README.md").read_text()
    assert page.startswith("# Page\n<!-- result two -->\n")
    assert page.endswith("<!-- end of result -->\nmore\n")
    assert "old" not in page
    assert "    test, 200 images    seed=0 ... seed=1      mean ± std   ensemble   relative cut   disagree\n" in page
    assert "    with mirror image       10.00  8.00 %   9.00 ± 1.41 %     6.00 %         22.2 %      5.0 %\n" in page
    assert "top-5 error by 9.9 % and 15.4 %.\n" in page
    assert "1 x cpu Fast (2 cores), JAX 0.10, one run: 20 images x members a second (median of the run), 1 minutes at that pace." in page
    assert (root / "docs/figures/two-ensemble.png").read_bytes() == b"picture"
    assert "/somewhere" not in (root / "docs/results/two.json").read_text()
    assert publish.render(root) == []


def test_ten_views_are_called_what_they_are():
    def label(views, input_size, stored_size):
        return publish._protocol({"protocol": {"views": views, "input_size": input_size, "stored_size": stored_size}})

    assert label(10, 227, 256) == "ten views"
    assert label(10, 28, 28) == "with mirror image"
    assert label(1, 28, 28) == "centre crop"


def test_a_command_is_broken_between_its_words():
    command = (
        "python -m alexnet_jax.train '--config.ensemble.members=learning_rate=[.005,.02], lrn=[on,off], seeds=2' " + "--config.x=1 " * 9
    )
    published = publish._wrapped(command)
    assert "\n" in published
    assert shlex.split(published.replace("\\\n", " ")) == shlex.split(command)


def test_only_the_runs_own_evaluations_of_its_test_are_published(run):
    directory, _ = run
    found = json.loads((directory / "evaluation-test-ten-crop.json").read_text())
    (directory / "evaluation-validation.json").write_text(json.dumps({**found, "protocol": {**found["protocol"], "split": "validation"}}))
    (directory / "evaluation-both.json").write_text(json.dumps({**found, "steps": [12, 12]}))
    assert publish.run_record(directory)["evaluations"] == [{name: value for name, value in found.items() if name != "runs"}]


def test_evaluations_of_networks_that_trained_on_are_not_published(run):
    directory, _ = run
    path = directory / "evaluation-test-ten-crop.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"steps": [6]}))
    assert publish.run_record(directory)["evaluations"] == []


def test_an_ablation_is_shown_one_heading_deeper(run, monkeypatch):
    directory, root = run
    (directory / "ablation.json").write_text('{"factors": []}')
    (directory / "ablation.png").write_bytes(b"effects")
    printed = f"# Ablation\n\n![x](ablation.svg)\n## Question\n{HOW_TO_READ}\nthe page has it once\n"
    monkeypatch.setattr("experiments.ablate.files.markdown", lambda found: printed)
    publish.keep("two", directory, root)
    publish.render(root)
    assert "![x](figures/two-ablation.png)\n### Question\n" in (root / "docs/results.md").read_text()
    assert "the page has it once" not in (root / "docs/results.md").read_text()
    assert "![x](docs/figures/two-ablation.png)" in (root / "README.md").read_text()
    assert (root / "docs/figures/two-ablation.png").read_bytes() == b"effects"


def test_an_ablation_with_one_seed_has_no_spread_and_no_interval(run):
    directory, root = run
    wrong = np.arange(20) < 3
    outcomes = {
        name: comparison.Outcome([0], [0], np.array([wrong.mean()]), wrong[None], *2 * [np.array([False])]) for name in ("on", "off")
    }
    factor = {"factor": "lrn", "question": "LRN?", "published": "-", "levels": comparison.compare(outcomes, 0.5), "notes": []}
    found = {"command": "x", "protocol": {}, "margin": 0.5, "skipped": [], "factors": [factor]}
    (directory / "ablation.json").write_text(json.dumps(plain(found)))
    publish.keep("two", directory, root)
    publish.render(root)
    assert "| off | 15.00 % | +0.00 |" in (root / "README.md").read_text()


@pytest.mark.parametrize("folder", [False, True])
def test_a_claim_is_shown_as_it_was_printed(run, tmp_path, folder):
    claim = tmp_path / "figure1"
    claim.mkdir()
    (claim / "result.txt").write_text("python -m experiments.reproduce figure1\n\nmeasured: in 2.0 times fewer epochs\n")
    figures = claim / "figures" if folder else claim  # where the pages of explain and of the like have theirs
    figures.mkdir(exist_ok=True)
    (figures / "figure1.png").write_bytes(b"picture")
    root = run[1]
    (root / "README.md").write_text("")
    publish.keep("two", claim, root)
    publish.render(root)
    page = (root / "docs" / "results.md").read_text()
    assert "```text\npython -m experiments.reproduce figure1\n\nmeasured: in 2.0 times fewer epochs\n```\n" in page
    assert "![figure1](figures/two-figure1.png)" in page
    assert (root / "docs" / "figures" / "two-figure1.png").read_bytes() == b"picture"


def test_a_benchmark_is_shown_as_it_was_printed(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["-m", "growth"])
    for part, place in (("gpu", "benchmarks"), ("train", "benchmarks/item"), ("growth", "benchmarks")):
        table = Table(part, f"The {part}", {"side": "<8", "images/s": "10,.1f", "of peak": "8.0%"}, Settings(), tmp_path / place)
        table.row(side="ours", images_s=1234.5, of_peak=0.7)
        table.row(side="theirs", images_s=9.0)
        table.note("a note")
    printed = capsys.readouterr().out.split("The growth\n")[1]
    (tmp_path / "benchmarks" / "growth.png").write_bytes(b"picture")
    publish.keep("two", tmp_path / "benchmarks", root := run[1])
    publish.render(root)
    page = (root / "docs" / "performance.md").read_text()
    assert page.index("**The train.**") < page.index("**The growth.**")
    assert textwrap.indent(printed, "    ") in page
    assert "\n    ours         1,234.5       70%\n    theirs           9.0         -\n      a note\n" in page
    assert "![Time against dataset size, members and batch size](figures/two-growth.png)" in page
    assert (root / "docs" / "figures" / "two-growth.png").read_bytes() == b"picture"


def test_what_cannot_be_published(run, tmp_path):
    directory, root = run
    with pytest.raises(UserError, match=r"README.md shows the result two, but there is no .*two=DIR"):
        publish.render(root)
    with pytest.raises(UserError, match="can't be the name of a result"):
        publish.keep("a b", directory, root)
    events = (directory / "events.jsonl").read_text().splitlines()[:-1]
    unfinished = shutil.copytree(directory, tmp_path / "unfinished")
    (unfinished / "events.jsonl").write_text("\n".join(events) + "\n")
    figure = (directory / "figures" / "ensemble.png").rename(tmp_path / "ensemble.png")
    with pytest.raises(UserError, match=r"no figure of its ensembles; make it with: python -m experiments.report .*run"):
        publish.keep("two", directory, root)
    figure.rename(directory / "figures" / "ensemble.png")
    with pytest.raises(UserError, match="hasn't finished"):
        publish.keep("two", unfinished, root)
    with RunLog(directory, 24) as log:  # it was told to go on for longer
        log.event("start", 12, **START)
    with pytest.raises(UserError, match="hasn't finished"):
        publish.keep("two", directory, root)
    with pytest.raises(UserError, match="is not NAME=DIR"):
        publish.main(["nothing"])


def test_a_sweep_is_shown_as_it_was_printed(run, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.orig_argv", ["python3", "-m", "experiments.sweep", "--grid", "learning_rate=.1,.2"])
    points = [Point(f"learning_rate={rate}", {"learning_rate": rate}) for rate in ("0.1", "0.2")]
    (program,) = pack("configs/digits.py", [], points, 1, tmp_path / "sweep")
    record.save(tmp_path / "sweep", record.make("configs/digits.py", [], [program]))
    root = run[1]
    with pytest.raises(UserError, match="hasn't finished; only finished sweeps"):
        publish.keep("two", tmp_path / "sweep", root)
    program.directory.mkdir()
    config = {"config": {"ensemble": {"seed": 0}}, "devices": ["1 x gpu Fast"], "versions": {"python": "3.11", "jax": "0.10"}}
    (program.directory / "config.json").write_text(json.dumps(config))
    with RunLog(program.directory, 12) as log:
        log.event("start", 0, **START)
        log.event("eval", 12, epoch=1.0, **evaluation([0.25, 0.125], [0.5, 0.5]))
        log.event("end", 12, reason="epochs", seconds=1.0, test=TEST)
    ranking.write(tmp_path / "sweep", [program])
    publish.keep("two", tmp_path / "sweep", root)
    publish.render(root)
    page = (root / "docs" / "results.md").read_text()
    assert "```text\npython -m experiments.sweep --grid learning_rate=.1,.2\n\nlearning_rate  validation error" in page
    assert re.search(r"\n0\.2 +12\.50 % +8\.00 % +1  predictions lost.*\n0\.1 ", page)
    assert "Lowest validation error: learning_rate=0.2, 12.50 % over one seed; its test error is 8.00 %.\nPoints whose" in page
    assert "\nMachine: 1 x gpu Fast; jax 0.10, python 3.11.\n" in page
    assert (root / "docs" / "figures" / "two-results.png").exists()


def test_the_table_of_claims_is_that_of_the_kept_files(run):
    directory, root = run
    levels = {
        name: comparison.Outcome([0, 1, 2], [0, 1, 2], *outcome_of(errors)) for name, errors in (("a", [2, 3, 4]), ("off", [3, 5, 7]))
    }
    factor = {"factor": "dropout", "question": "?", "published": "-", "levels": comparison.compare(levels, 0.5), "notes": []}
    protocol = {"dataset": "digits, 10 classes", "training": "1,257 images (train), at most 5 epochs"}
    found = {"command": "x", "protocol": protocol, "margin": 0.5, "orders": 3, "skipped": [], "factors": [factor]}
    (directory / "ablation.json").write_text(json.dumps(plain(found)))
    publish.keep("evidence_colour", directory, root)
    shown = "<!-- result evidence_colour -->\n<!-- end of result -->\n"
    (root / "docs/results.md").write_text(f"<!-- claims -->\nold\n<!-- end of claims -->\n{shown}")
    for page in ("README.md", "docs/performance.md", "docs/understanding.md"):
        (root / page).write_text("")
    with pytest.raises(UserError, match=r"evidence_colour.json has no level 'off' of the factor colour"):
        publish.render(root)
    known = {"dropout": tuple(verdicts.Comparison(name, "dropout", "off", verdicts.WORSE) for name in ("evidence_colour", "later"))}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(verdicts, "CLAIMS", known)
        assert publish.render(root, write=False) == [publish.Path("docs/results.md")]
        assert publish.render(root) == [publish.Path("docs/results.md")]
        assert publish.render(root, write=False) == []
    page = (root / "docs/results.md").read_text()
    what = "off against a: digits, 1,257 images; 3 networks in 3 orders ([evidence_colour](#evidence_colour))"
    assert "| dropout | open | +10.00 (-2.42 to +22.42) | too few orders to tell" in page  # 5, 10, 15: t(2) is 4.3027
    assert f"points | {what} |" in page
    assert "old" not in page
    assert '<a id="evidence_colour"></a>' in page


def test_a_result_that_contradicts_itself_or_is_damaged_is_refused(run):
    directory, root = run
    outcomes = {
        name: comparison.Outcome([0, 1, 2], [0, 1, 2], *outcome_of(errors)) for name, errors in (("a", [2, 3, 4]), ("b", [3, 5, 7]))
    }
    levels = comparison.compare(outcomes, 0.5)
    factor = {"factor": "dropout", "question": "?", "published": "-", "levels": levels, "notes": []}
    found = {"command": "x", "protocol": {}, "margin": 0.5, "orders": 3, "skipped": [], "factors": [factor]}
    kept, ablation = root / "docs/results/two.json", directory / "ablation.json"
    ablation.write_text(json.dumps(plain(found)))
    publish.keep("two", directory, root)
    publish.render(root)
    levels[1]["difference"]["high"] = -1.0
    ablation.write_text(json.dumps(plain(found)))
    publish.keep("two", directory, root)
    with pytest.raises(UserError, match=r"two\.json: the difference of b isn't that of its networks' errors"):
        publish.render(root)
    kept.write_text('{"kind": "ablation"}')
    with pytest.raises(UserError, match=r"two\.json is no result that this command wrote \(KeyError"):
        publish.render(root)
    kept.write_text("{")
    with pytest.raises(UserError, match=r"two\.json is damaged"):
        publish.render(root)


def test_a_figure_that_is_lost_is_told(run, monkeypatch):
    _, root = run
    monkeypatch.chdir(root)
    monkeypatch.setattr(publish, "render", lambda write=True: [])
    (root / "README.md").write_text("![x](docs/figures/x.png) ![y](https://example.org/y.png)\n")
    with pytest.raises(UserError, match=r"the pages show figures that aren't there: docs/figures/x\.png"):
        publish.main(["--check"])


def outcome_of(wrong_of_20):
    wrong = np.arange(20) < np.array(wrong_of_20)[:, None]
    return wrong.mean(1), wrong, *2 * [np.zeros(len(wrong), bool)]


def test_check_writes_nothing_and_fails_on_a_difference(run, monkeypatch):
    monkeypatch.setattr(publish, "render", lambda write=True: [publish.Path("docs/results.md")] if not write else pytest.fail("written"))
    with pytest.raises(UserError, match=r"docs/results.md: not what the kept files say; write with: python -m experiments.publish"):
        publish.main(["--check"])
    with pytest.raises(UserError, match="--check stores nothing; leave x=y out"):
        publish.main(["--check", "x=y"])


def test_the_pages_say_what_the_files_do(tmp_path):
    """Of this repository: rendering its pages again changes nothing."""
    for name in ("README.md", "docs"):
        source = publish.Path(__file__).parent.parent / name
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, tmp_path / name)
    assert publish.render(tmp_path) == []


def test_a_verdict_says_whether_it_speaks_for_the_claim():
    better = verdicts.Comparison("x", "dropout", "off", verdicts.BETTER)
    assert [better.says(kind) for kind in ("better", "worse", "none", "open")] == ["for", "against", "no effect", "open"]
    same = better._replace(supports=verdicts.NO_EFFECT)
    assert [same.says(kind) for kind in ("better", "worse", "none", "open")] == ["against", "against", "for", "open"]
