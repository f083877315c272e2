"""CONTRIBUTING.md is true: its walks name functions that exist, at most eight a walk, and its map names what there is."""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
WALKS = dict(re.findall(r"\*\*(.+?)\*\*[^\n]*\n\n((?:\d\. .*\n(?:   .*\n)*)+)", PAGE.split("## Three walks")[1].split("\n## ")[0]))


def resolved(name):
    """The object that `module.Class.function` names below alexnet_jax."""
    words = name.split(".")
    for cut in range(len(words) - 1, 0, -1):
        try:
            found = importlib.import_module("alexnet_jax." + ".".join(words[:cut]))
        except ModuleNotFoundError:
            continue
        for word in words[cut:]:
            found = getattr(found, word)
        return found
    raise ModuleNotFoundError(name)


def test_there_are_three_walks():
    assert len(WALKS) == 3


@pytest.mark.parametrize("walk", WALKS)
def test_a_walk_is_at_most_eight_functions_that_exist(walk):
    names = re.findall(r"^\d\. `([\w.]+)`", WALKS[walk], re.M)
    assert 4 <= len(names) <= 8
    assert len(names) == len(re.findall(r"^\d\. ", WALKS[walk], re.M))
    assert all(callable(resolved(name)) for name in names)


def test_the_map_names_what_exists():
    rows = [line for line in PAGE.split("## Where things are")[1].split("\n## ")[0].splitlines() if line.startswith("| `")]
    places = [place for row in rows for place in re.findall(r"`([\w/.]+)`", row.split(" | ")[0])]
    assert len(places) > 20
    for place in places:
        assert (ROOT / place).exists() or (ROOT / "alexnet_jax" / place).exists(), place


def test_the_worked_variant_is_a_network(monkeypatch, capsys):
    from alexnet_jax.model import __main__ as summary
    from alexnet_jax.model import architecture

    (differences,) = re.findall(r'"half": (\{.*?\})', PAGE)
    monkeypatch.setitem(architecture.VARIANTS, "half", ast.literal_eval(differences))
    summary.main(["half"])
    assert "conv1     55 x 55 x 48" in capsys.readouterr().out


def test_the_worked_factor_is_planned(tiny_config, monkeypatch):
    from experiments.ablate import factors, study

    code = PAGE.split("def _momentum")[1].split("\n\n")[0]
    scope = vars(factors).copy()
    exec(f"def _momentum{code}", scope)
    monkeypatch.setitem(factors.FACTORS, "momentum", factors.Factor("Does momentum matter?", scope["_momentum"]))
    resolved = study.resolve("momentum", tiny_config(), (28, 28, 1))
    assert [point.settings for point in resolved.levels.values()] == [{}, {"momentum": "0"}]
