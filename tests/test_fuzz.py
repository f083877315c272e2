"""Hostile input, at random and repeatable: it works, or it is a UserError of one line. No other exception, no hang, no silent change."""

import contextlib
import io
import json
import os
import random
import shutil
import signal
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from alexnet_jax import checkpoint, control, data, history, images, predict, run
from alexnet_jax import config as config_lib
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.errors import LONGEST, UserError
from alexnet_jax.history import plain
from alexnet_jax.hyper import Hyper, stack
from alexnet_jax.prepare.datasets import prepare_folder
from alexnet_jax.report.compare import write_comparison
from alexnet_jax.report.curves import curves_figure, throughput_figure
from alexnet_jax.report.words import results_table
from alexnet_jax.report.write import write_report
from alexnet_jax.train import plateau
from alexnet_jax.train.inbox import Inbox
from alexnet_jax.train.loop import train
from alexnet_jax.train.rates import Policy, Rates, make_policy
from tests.test_checkpoint import same, save, trees

pytestmark = pytest.mark.slow
SECONDS = 60  # after which something hangs
CONFIG = f"{os.getcwd()}/configs/digits.py:members=2"
TINY = ("model.width=0.04", "train.batch_size=40", "train.log_every_steps=1", "eval.batch_size=64", "train.epochs=0.3")


def fuzz(count):
    """So many examples, the same ones every time."""
    every = {"deadline": None, "derandomize": True, "database": None, "suppress_health_check": list(HealthCheck)}
    return settings(max_examples=count, **every)


@contextlib.contextmanager
def one_line():
    """What is inside may raise a UserError of one line, and no other exception; and it comes to its end."""

    def hangs(*_):
        raise TimeoutError(f"not done after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(SECONDS)
    try:
        yield
    except UserError as error:
        text = str(error)
        assert text.isprintable(), text
        assert 0 < len(text) <= LONGEST + 10, text
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def finished(digits_dir, tmp_path_factory):
    """The directory of a short finished run with drops, saves and an evaluation."""
    workdir = tmp_path_factory.mktemp("fuzz") / "run"
    rule = ("eval.every_epochs=0.1", "plateau.patience=1", "plateau.min_delta=1", "plateau.max_drops=9")
    train(config_lib.load(CONFIG, [f"data.dir={digits_dir}", *TINY, *rule]), workdir)
    return workdir


LETTERS = st.text(st.characters(), max_size=30)  # lone surrogates and zero bytes among them
NUMBERS = (
    "1e30",
    "-1e30",
    "1e9",
    "1e400",
    "nan",
    "inf",
    "-inf",
    "0",
    "-1",
    "0.5",
    "2",
    "100000000",
    "9007199254740993",
    "4294967296",
    "1e-60",
)
WORDS = ("", "~", "~nobody/x", "true", "None", "()", "[", "a\0b", "\ud800", "x" * 300, "x/" * 3000, "٣", "\u202e", "9" * 5000, "replay:~/x")
DEEP = ("-" * 9000 + "1", "[" * 100_000, "(" * 100_000 + ")" * 100_000, "seed=" + "-" * 9000 + "1")
TUPLES = ("(nan,)", "(1e400,)", "(1,2,3,4,5)", "(1e30,1,1,1,1)", "(1000000000,1,1,1,1)", "(-1,)", "(0,0)", "(3,-2)", "((1,),)", "(10**9,)")
MEMBERS = (
    "seeds=100000000",
    "seed=[0,1e9]",
    "seeds=1e400",
    "lrn=[on,off]",
    "dropout=1",
    "learning_rate=[1e39,0]",
    "crop=nan",
    "seed=[1,2",
    ";",
)
SLICES = ("train[:", "train[5:3]", "train[:40]", "validation[1%:]", "train[:1e9]", "train[9999999999999:]")
CHOICES = ("tanh", "per_size", "before_pool", "caffe", "torch", "poly", "fixed", "bfloat16", "grouped", "manual", "suggest", "replay:")
VALUES = st.one_of(st.sampled_from((*NUMBERS, *WORDS, *DEEP, *TUPLES, *MEMBERS, *SLICES, *CHOICES)), LETTERS, st.floats().map(repr))
FIELDS = tuple(config_lib.flat(config_lib.load(CONFIG)))


@fuzz(500)
@given(field=st.sampled_from(FIELDS), value=VALUES)
def test_config_overrides(field, value, digits_dir, tmp_path_factory):
    """An override is refused before anything is written, or three steps are trained and evaluated with it."""
    folder = tmp_path_factory.mktemp("overrides")
    taken = data.train_batches

    def three(*args, **kwargs):
        for step, batch in enumerate(taken(*args, **kwargs)):
            if step == 3:
                signal.raise_signal(signal.SIGTERM)
            yield batch

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HOME", str(folder))
        patch.setattr(data, "train_batches", three)
        with one_line():
            config = config_lib.load(CONFIG, [f"data.dir={digits_dir}", *TINY, "eval.every_epochs=0.03", f"{field}={value}"])
            train(config, folder / "run")
            assert not config_lib.differences(config, run.load(folder / "run").config)
    shutil.rmtree(folder)


SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), LETTERS, st.sampled_from((10**400, 1e300, 1e-60, -0.0, "0.1")))
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(LETTERS, inner, max_size=3), max_leaves=5)
KEYS = st.sampled_from(("command", "factor", "member", "name", "value", "id", "by", "sent", "event", "step"))
KNOWN = st.sampled_from(("drop", "set", "save", "stop", "learning_rate", "dropout", "seed", 0, 1, 0.1, "[" * 900 + "]" * 900))
COMMANDS = st.dictionaries(KEYS, KNOWN | JSON, max_size=6).flatmap(lambda fields: st.just({"command": "drop"} | fields))
LINES = st.one_of(
    COMMANDS.map(lambda fields: json.dumps(fields).encode()),
    st.binary(max_size=60),
    st.sampled_from((b"[" * 100_000, b'{"command": "drop", "by": ' + b"[" * 400 + b"]" * 400 + b"}", b"x" * 20_000, b"\xff\xfe{}", b"nul")),
)


@fuzz(300)
@given(lines=st.lists(LINES, min_size=1, max_size=3))
def test_control_lines(lines, tmp_path_factory):
    """Whatever stands there, the command after it is obeyed, and every answer can be logged."""
    workdir = tmp_path_factory.mktemp("control")
    row = {field: float(getattr(Hyper(), field)) for field in Hyper.__dataclass_fields__}
    policy = Policy("manual", config_lib.load(CONFIG).plateau, [])
    rates = Rates(policy, stack([row, {**row, "seed": 1.0}]), plateau.init(2), lambda step: 1.0, lambda controls: [controls])
    (workdir / "control.jsonl").write_bytes(b"\n".join(lines) + b"\n" + json.dumps({"command": "save", "id": "last"}).encode() + b"\n")
    inbox = Inbox(workdir)
    with one_line(), warnings.catch_warnings():
        warnings.simplefilter("error")
        commands = inbox.poll(now=True)
        for command in commands:
            for event in rates.obey(0, command):
                json.dumps(plain(event), allow_nan=False)
        assert commands[-1]["id"] == "last"
        assert inbox.poll(now=True) == []
        json.dumps(inbox.taken)
    for field in Hyper.__dataclass_fields__:
        assert np.isfinite(getattr(rates.hyper, field)).all(), field
    assert (rates.plateau.scale <= 1).all()
    shutil.rmtree(workdir)


def damaged_lines(draw, whole):
    """A log with one kind of damage."""
    lines = whole.splitlines()
    at = draw(st.integers(0, len(lines) - 1))
    event = json.loads(lines[at])
    field = draw(st.sampled_from(sorted(event)))
    match draw(st.sampled_from(("torn", "flip", "insert", "drop", "shuffle", "missing", "type", "nested", "utf16"))):
        case "torn":
            return whole[: draw(st.integers(0, len(whole)))]
        case "flip":
            content = bytearray(whole)
            for place in draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=20)):
                content[place] ^= 1 << draw(st.integers(0, 7))
            return bytes(content)
        case "insert":
            lines[at:at] = [draw(st.sampled_from((b"12", b"[]", b"{}", b"null", b"\0" * 4096, b"[" * 100_000, b"x" * 1_000_000)))]
        case "drop":
            keep = draw(st.lists(st.booleans(), min_size=len(lines), max_size=len(lines)))
            lines = [line for line, kept in zip(lines, keep, strict=True) if kept]
        case "shuffle":
            lines = draw(st.permutations(lines))
        case "missing":
            del event[field]
            lines[at] = json.dumps(event).encode()
        case "type":
            event[field] = draw(st.sampled_from(("x", -1, [], {}, None, 1e300, True, 10**400, [None], ["a"], 0)) | JSON)
            lines[at] = json.dumps(event).encode()
        case "nested":
            value = event[field]
            if isinstance(value, dict) and value:
                inner = draw(st.sampled_from(sorted(value)))
                value[inner] = draw(st.sampled_from(("x", -1, [], {}, None, 1e300, True, [[]], [{}])))
            lines[at] = json.dumps(event).encode()
        case "utf16":
            lines[at] = lines[at].decode().encode("utf-16")
    return b"\n".join(lines) + b"\n"


@fuzz(200)
@given(draws=st.data())
def test_damaged_event_logs(draws, finished, tmp_path_factory):
    """Through every reader of a run."""
    workdir = tmp_path_factory.mktemp("events") / "run"
    workdir.mkdir()
    shutil.copy(finished / "config.json", workdir)
    (workdir / "events.jsonl").write_bytes(damaged_lines(draws.draw, (finished / "events.jsonl").read_bytes()))

    def properties():
        past = history.load(workdir)
        for name in vars(type(past)):
            if not name.startswith("_") and (name not in ("drop_counts",) or past.start):
                getattr(past, name)
        results_table(past) if past.start else None

    def figures():
        past = history.load(workdir)
        if past.start:
            curves_figure(past)
            throughput_figure(past) if past.trains else None

    replay = config_lib.load(CONFIG, [f"plateau.mode=replay:{workdir}"]).plateau
    readers = {
        "history": properties,
        "follower": lambda: history.Follower(workdir).progress(),
        "status": lambda: control.status(workdir),
        "report": lambda: write_report(workdir),
        "compare": lambda: write_comparison([workdir, finished], workdir.parent / "comparison.html"),
        "curves": figures,
        "resume": lambda: history.missing(workdir, 3, [{"event": "drop", "member": 0}]),
        "replay": lambda: make_policy(replay, 2),
    }
    for reader in readers.values():
        with one_line():
            reader()
    shutil.rmtree(workdir.parent)


def damaged_bytes(draw, whole):
    """A file with one kind of damage; None for one that is gone."""
    match draw(st.sampled_from(("flip", "cut", "empty", "gone", "zeros", "longer", "moved"))):
        case "flip":
            content = bytearray(whole or b"x")
            for place in draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=5)):
                content[place] ^= 1 << draw(st.integers(0, 7))
            return bytes(content)
        case "cut":
            return whole[: draw(st.integers(0, len(whole)))]
        case "empty":
            return b""
        case "gone":
            return None
        case "zeros":
            return bytes(len(whole))
        case "longer":
            return whole + draw(st.binary(min_size=1, max_size=50))
        case _:
            cut = draw(st.integers(0, len(whole)))
            return whole[cut:] + whole[:cut]


FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM")


def picture(form, seed):
    """The bytes of a small picture."""
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 30, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


@fuzz(100)
@given(form=st.sampled_from(FORMATS), draws=st.data())
def test_damaged_pictures(form, draws):
    content = damaged_bytes(draws.draw, picture(form, 0))
    with one_line():
        assert images.load_image(content or b"").dtype == np.uint8
    with one_line():
        assert images.load_resized(content or b"", images.Resize(28)).shape == (28, 28, 3)


def test_damaged_pictures_through_prepare_and_predict(finished, tmp_path):
    """A hundred of them among whole ones: each is prepared or left out by its name, classified or skipped by its name."""
    dice, source = random.Random(0), tmp_path / "source" / "train"
    for name in ("a", "b"):
        (source / name).mkdir(parents=True)
    for i in range(100):
        form = FORMATS[i % len(FORMATS)]
        content = bytearray(picture(form, i))
        for _ in range(dice.choice((1, 5, 50))):
            content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        cut = content[: dice.randrange(len(content))] if dice.random() < 0.5 else content
        (source / "ab"[i % 2] / f"{i:03}.{form.lower()}").write_bytes(cut)
    for i in range(4):
        for name in ("a", "b"):
            (source / name / f"whole{i}.png").write_bytes(picture("PNG", i))
    with one_line():
        made = prepare_folder(tmp_path / "source", "toy", tmp_path / "data", size=28, validation=2, skip_corrupt=True)
        assert (made / "left-out.tsv").exists() or list(made.iterdir())
        found = data.load(config_lib.load(CONFIG, [f"data.dir={tmp_path / 'data'}", "data.name=toy"]).data)
        prepared = sum(found.split_sizes.values())
        assert 8 <= prepared < 108
    with one_line(), contextlib.redirect_stderr(io.StringIO()) as said:
        code = predict.main(["--run", str(finished), str(source), f"--json={tmp_path / 'answers.json'}"])
        answers = json.loads((tmp_path / "answers.json").read_text())
        assert code == 1
        assert len(answers) >= prepared - 2
        assert said.getvalue().count("skipped: ") + len(answers) + said.getvalue().count("not an image") >= 100


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("saved")
    save(workdir, (3, {"evaluated": 2}))
    return workdir


@fuzz(60)
@given(draws=st.data())
def test_damaged_checkpoints(draws, saved, tmp_path_factory):
    """What is restored is what was saved; else the error names the checkpoint, and a resume sets it aside."""
    workdir = tmp_path_factory.mktemp("damaged") / "run"
    shutil.copytree(saved, workdir)
    where = workdir / "checkpoints" / "3"
    path = draws.draw(st.sampled_from(sorted(path for path in where.rglob("*") if path.is_file())))
    content = damaged_bytes(draws.draw, path.read_bytes())
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    whole = checkpoint.restore(saved, 3, trees())
    found, words = None, ""
    with one_line():
        try:
            found = checkpoint.restore(workdir, 3, trees())
        except checkpoint.Damaged as error:
            words = str(error)
    if found:
        assert same(found.trees, whole.trees)
        assert found.record == whole.record
    else:
        assert f"{where} is damaged" in words
        with Checkpoints(workdir) as checkpoints:
            checkpoints.set_aside(3)
            assert checkpoints.latest_step() is None
    shutil.rmtree(workdir.parent)


@fuzz(100)
@given(draws=st.data())
def test_config_json_of_another_shape(draws, finished, tmp_path_factory):
    """A config.json of a newer version, of another program, or edited by hand, through all that read it."""
    workdir = tmp_path_factory.mktemp("record") / "run"
    workdir.mkdir()
    for name in ("checkpoints", "events.jsonl"):
        (workdir / name).symlink_to(finished / name)
    record = json.loads((finished / "config.json").read_text())
    place, key = record, draws.draw(st.sampled_from(sorted(record)))
    while isinstance(place[key], dict) and place[key] and draws.draw(st.booleans()):
        place = place[key]
        key = draws.draw(st.sampled_from(sorted(place)))
    if draws.draw(st.booleans()):
        del place[key]
    else:
        place[key] = draws.draw(st.sampled_from(("x", -1, [], {}, None, 1e300, True, ["x"], [[]], 10**400, "\ud800")) | JSON)
    content = json.dumps(record).encode()
    if draws.draw(st.integers(0, 4)) == 0:
        content = damaged_bytes(draws.draw, content) or b""
    (workdir / "config.json").write_bytes(content)
    config = config_lib.from_json(json.loads((finished / "config.json").read_text())["config"])
    dataset = data.load(config.data)
    readers = {
        "load": lambda: run.load(workdir),
        "resume": lambda: run.check_same(workdir, config, dataset),
        "report": lambda: write_report(workdir),
        "compare": lambda: write_comparison([workdir, finished], workdir.parent / "comparison.html"),
    }
    for reader in readers.values():
        with one_line():
            reader()
    shutil.rmtree(workdir.parent)


def test_every_reader_of_a_whole_run_reads_it(finished, tmp_path):
    """What is fuzzed above works where nothing is damaged."""
    shutil.copytree(finished, tmp_path / "run")
    assert write_report(tmp_path / "run").exists()
    assert "step 9 of 9" in control.status(tmp_path / "run")
    assert Path(tmp_path / "run" / "config.json").exists()
