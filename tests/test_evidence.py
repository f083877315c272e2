"""The pieces of evidence are commands that exist and name results of the claims' table; the time that is over stops a piece."""

import importlib
import os
import time

import pytest

from alexnet_jax import config as config_lib
from alexnet_jax.errors import UserError
from experiments import evidence, verdicts
from experiments.launch import cost

TINY = ("model.width=0.04", "train.epochs=0.2", "train.batch_size=40")


@pytest.mark.parametrize("name", [name for name, piece in evidence.PIECES.items() if "digits" in f"{piece.command}{piece.results}"])
def test_a_piece_is_a_command_that_can_be_planned(name, digits_dir, tmp_path, capsys, monkeypatch):
    """Those on the digits, which are always here."""
    monkeypatch.setattr(cost, "estimate", lambda *args, **more: cost.Estimate(7200, "a guess", True))
    module, *words = evidence.words_of(name, tmp_path, [f"data.dir={digits_dir}", *TINY], "--dry-run")[1:]
    importlib.import_module(f"{module}.__main__").main(words)
    shown = capsys.readouterr().out
    more = "figure1" in name or "--rates auto" in evidence.PIECES[name].command
    assert (evidence.expected(shown) > 7200) == ("depend on their results" in shown) == more
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", evidence.PIECES)
def test_the_words_of_a_piece_are_those_of_its_command(name, tmp_path):
    module, *words = evidence.words_of(name, tmp_path, ["train.epochs=3"])[1:]
    args = config_lib.parse_command_line(importlib.import_module(f"{module}.__main__").parser(), words)
    config = getattr(args, "config", None) or f"configs/{args.dataset}.py"
    assert config_lib.load(config, args.overrides).train.epochs == 3


def test_every_result_of_evidence_in_the_table_of_claims_is_one_of_a_piece():
    made = {f"evidence_{result}" for piece in evidence.PIECES.values() for result in piece.results}
    named = {each.result for comparisons in verdicts.CLAIMS.values() for each in comparisons if each.result.startswith("evidence_")}
    assert named - made == set()
    assert len(named) > 8


def test_an_override_replaces_that_of_the_piece(tmp_path):
    words = evidence.words_of("recipe", tmp_path, ["train.epochs=1"])
    assert [word for word in words if "epochs" in word] == ["--config.eval.every_epochs=10", "--config.train.epochs=1"]
    assert words[words.index("--out") + 1] == str(tmp_path / "recipe")


def test_the_time_of_a_dry_run_is_read_from_what_it_prints():
    output = (
        "estimated time, one program after the other: about 12 min, at the pace of 3 h runs\n"
        "estimated time, one program after the other: at least 2 h 5 min, 3 GFLOPs\nwith about 9 networks that depend on them: 3 h 10 min\n"
        "estimated time, one program after the other: unknown\n"
    )
    assert evidence.expected(output) == 12 * 60 + 3 * 3600 + 10 * 60


def test_a_piece_ends_with_the_time_or_by_itself(monkeypatch, tmp_path):
    def run(code, until):
        monkeypatch.setattr(evidence, "words_of", lambda *args, **more: ["-c", code])
        return evidence.train("figure1", tmp_path, [], until)

    assert run("pass", float("inf"))
    started = time.monotonic()
    assert not run("import time; time.sleep(60)", started + 0.5)
    assert time.monotonic() - started < 30
    code = f"import os, signal, time; os.kill({os.getpid()}, signal.SIGTERM); time.sleep(60)"
    with pytest.raises(KeyboardInterrupt):
        run(code, float("inf"))
    assert time.monotonic() - started < 40
    with pytest.raises(UserError, match="figure1 failed; its message is above"):
        run("raise SystemExit(3)", float("inf"))


def test_a_piece_is_told_how_many_programs_train_at_once(monkeypatch, tmp_path):
    code = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text(' '.join(sys.argv[2:]))"
    monkeypatch.setattr(evidence, "words_of", lambda name, out, overrides, *options: ["-c", code, str(out / "told"), *options])
    evidence.main(["--out", str(tmp_path), "--only", "lrn", "--jobs", "3"])
    assert (tmp_path / "told").read_text() == "--jobs 3"
    evidence.main(["--out", str(tmp_path), "--only", "lrn"])
    assert (tmp_path / "told").read_text() == ""


def test_pieces_are_planned_and_trained_in_their_order(monkeypatch, tmp_path, capsys):
    trained = []
    monkeypatch.setattr(evidence, "train", lambda name, *args: trained.append(name) or len(trained) < 2)
    evidence.main(["--out", str(tmp_path), "--only", "augmentation,drops,lrn"])
    shown = capsys.readouterr().out
    assert trained == ["augmentation", "drops"]
    assert "the time is over during drops" in shown
    assert f"evidence_augmentation_250={tmp_path}/augmentation/fashion_mnist-full/augmentation/250-images" in shown
    assert "evidence_drops" not in shown
    monkeypatch.setattr(evidence, "words_of", lambda *args, **more: ["-c", "print('estimated time, x: at least 3 h 30 min, y')"])
    evidence.main(["--dry-run", "--only", "lrn,drops"])
    assert "in all about 7.0 h" in capsys.readouterr().out


def test_a_piece_that_fails_stops_no_other(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(evidence, "words_of", lambda name, *args, **more: ["-c", f"raise SystemExit({int(name == 'lrn')})"])
    with pytest.raises(UserError, match=r"^failed: lrn; repeat the command to continue"):
        evidence.main(["--out", str(tmp_path), "--only", "lrn,drops"])
    shown = capsys.readouterr()
    assert "error: lrn failed" in shown.err
    assert f"evidence_drops={tmp_path}/drops" in shown.out


def test_ctrl_c_at_a_piece_s_end_starts_no_next_one(monkeypatch, tmp_path):
    monkeypatch.setattr(evidence, "words_of", lambda *args, **more: ["-c", f"import os; os.kill({os.getpid()}, 15)"])
    monkeypatch.setattr(evidence, "POLL", 1)  # the piece has ended at the next look
    with pytest.raises(KeyboardInterrupt):
        evidence.train("lrn", tmp_path, [], float("inf"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "lnr"], "--only: unknown piece 'lnr'; did you mean lrn"),
        (["--hours", "0"], "--hours is 0; it must be positive"),
        (["--jobs", "0"], "--jobs is 0; it must be at least 1"),
    ],
)
def test_refuses(words, message):
    with pytest.raises(UserError, match=message):
        evidence.main(words)


def test_a_piece_that_cannot_be_planned_says_why(monkeypatch):
    monkeypatch.setattr(evidence, "words_of", lambda *args, **more: ["-c", "import sys; sys.exit('error: no dataset')"])
    with pytest.raises(UserError, match=r"^lrn: no dataset$"):
        evidence.main(["--dry-run", "--only", "lrn"])
