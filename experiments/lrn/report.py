"""The page of LRN, its table for the terminal, and the answer in words.

The command (__main__.py) calls it:

    write(found, out)    # out/lrn.html, out/lrn.json, out/figures/
"""

import json
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alexnet_jax.history import plain
from alexnet_jax.report import page
from alexnet_jax.report.style import any_script
from alexnet_jax.runlog import writing
from alexnet_jax.subject import Subject
from alexnet_jax.tables import aligned
from experiments.lrn import figures
from experiments.lrn.measure import MARKS, Layer

NEARLY_CONSTANT = 0.05  # LRN that changes at most this share of the units by more than 5 % is nearly a constant factor


class Found(NamedTuple):
    """What was measured."""

    subject: Subject
    dataset: str
    split: str
    layers: list[Layer]
    changes: list[str]  # the changes in words: first as trained, then the constant alone
    at_once: list[np.ndarray]  # of each change the errors (M,)
    after: list[np.ndarray] | None  # after retraining
    epochs: float | None  # of retraining
    rate: float  # of retraining, in units of the first learning rate
    note: str = ""  # shown on the page and in every figure

    @property
    def constants(self) -> str:
        """`n = 5, k = 2, alpha = 0.0001, beta = 0.75`."""
        hyper = self.subject.hyper
        shown = {"k": hyper.lrn_k, "alpha": hyper.lrn_alpha, "beta": hyper.lrn_beta}
        return ", ".join([f"n = {self.subject.model.arch.lrn_size}", *(f"{name} = {_range(values)}" for name, values in shown.items())])

    @property
    def after_words(self) -> str:
        """`after retraining`, and the split on which the retrained networks are measured, where it is another one."""
        tested = self.subject.run.config.data.test_split
        return "after retraining" + (f", on {tested}" if self.split != tested else "")

    def in_words(self) -> str:
        """What LRN does, with its reason."""
        parts = []
        for layer in self.layers:
            share = float(layer.share(0.05).mean())
            nearly = ": nearly a constant factor, which the next layer's weights can undo" if share <= NEARLY_CONSTANT else ""
            parts.append(f"in {layer.name}, LRN changes {100 * share:.1f} % of the active units by more than 5 %{nearly}")
        text = "; ".join(parts)
        trained, constant = (100 * errors.mean() for errors in self.at_once[:2])
        words = (
            f"{text[0].upper()}{text[1:]}. With the constant alone in its place, the error of the trained networks is {constant:.2f} %, "
        )
        words += f"not {trained:.2f} %"
        if self.after:
            trained, constant = (100 * errors.mean() for errors in self.after[:2])
            words += f"; {self.after_words} {constant:.2f} %, not {trained:.2f} %"
        return f"{words}."

    def in_text(self) -> str:
        """Everything, for the terminal."""
        constants = f"{self.constants}: {self.note}" if self.note else self.constants
        where = f"{self.dataset}, {self.split}, {len(self.subject.members)} networks; {constants}"
        words = textwrap.fill(self.in_words(), 110)
        return "\n\n".join([where, aligned(self.shares(), "<>"), aligned(self.errors(), "<>"), words])

    def shares(self) -> list[tuple[str, ...]]:
        """A row for each layer: the share of units that change by more than each mark, and the median change."""
        rows = [("", *(f"more than {100 * mark:g} %" for mark in MARKS), "median")]
        for layer in self.layers:
            shares = (f"{100 * layer.share(mark).mean():.1f} %" for mark in MARKS)
            rows.append((layer.name, *shares, f"{100 * layer.median().mean():.2g} %"))
        return rows

    def errors(self) -> list[tuple[str, ...]]:
        """A row for each change: its errors, mean and standard deviation over the networks."""
        heading = ("", "at once", self.after_words) if self.after else ("", "error")
        columns = [self.at_once, *([self.after] if self.after else [])]
        return [heading, *((name, *(_spread(column[i]) for column in columns)) for i, name in enumerate(self.changes))]


def _spread(errors: np.ndarray) -> str:
    return f"{100 * errors.mean():.2f} ± {100 * errors.std(ddof=1):.2f} %" if len(errors) > 1 else f"{100 * errors[0]:.2f} %"


def _range(values: Any) -> str:
    found = np.unique(values)
    return f"{found[0]:g}" if len(found) == 1 else f"{found[0]:g} to {found[-1]:g}"


@any_script()
def write(found: Found, out: Path) -> Path:
    """Write the page, its figures and the numbers, and return the page's path.

    Raises:
      UserError: a file can't be written.
    """
    subject, (heading, *errors) = found.subject, found.errors()
    alt = "; ".join(f"{row[0]}: {row[1]}" for row in errors)
    text = f"The error on {found.split} when the constants are changed in the trained networks: each dot is a network, each bar the mean."
    if found.epochs:
        text += (
            f" {found.after_words.capitalize()}: each was then trained on for {found.epochs:g} epochs at {found.rate:g} times its first "
            "learning rate, the unchanged ones too."
        )
    sections = [
        page.Section(
            "How much LRN changes",
            [
                page.Text(_CHANGES),
                page.Drawing("changes", figures.changes_figure(found.layers), "Share of units against the change that LRN exceeds"),
                page.Table(found.shares()[0], found.shares()[1:]),
            ],
        ),
        page.Section(
            "Who inhibits whom",
            [
                page.Text(f"{_INHIBITION} The network is {subject.members[0]}."),
                page.Drawing(
                    "inhibition", figures.inhibition_figure(found.layers), "Which share of each filter's divisor comes from which"
                ),
            ],
        ),
        page.Section(
            "Other constants",
            [
                page.Text(text),
                page.Drawing("errors", figures.errors_figure(found.changes, found.at_once, found.after, found.after_words), alt),
                page.Table(heading, errors),
            ],
        ),
    ]
    status = f"{subject.who} at step {int(subject.run.state.step):,}; {found.dataset}, {found.split}; {found.constants}"
    headline = f"{found.note}. {found.in_words()}" if found.note else found.in_words()
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        (out / "lrn.json").write_text(json.dumps(plain(_record(found)), indent=1) + "\n")
    page.write_figures(out / "figures", sections, found.note)
    page.write_page(out / "lrn.html", f"LRN in {subject.run.workdir.resolve().name}", status, headline, sections)
    page.write_result(out, found.in_text())
    return out / "lrn.html"


_CHANGES = (
    "LRN divides each unit by (k + c * sum)^beta, where the sum is over the squares of its neighbours and its own. Where the sum is small, "
    "this is the constant k^beta. The figure counts the active units by how far LRN departs from that constant."
)
_INHIBITION = (
    "Each row is a filter: of its divisor, the share from itself (the diagonal) and from its neighbours, the mean over its active units."
)


def _record(found: Found) -> dict[str, Any]:
    return {
        "run": str(found.subject.run.workdir),
        "step": int(found.subject.run.state.step),
        "dataset": found.dataset,
        "split": found.split,
        "constants": found.constants,
        "members": found.subject.members,
        "shares": {layer.name: {f"{mark:g}": layer.share(mark) for mark in MARKS} for layer in found.layers},
        "errors": dict(zip(found.changes, found.at_once, strict=True)),
        "epochs": found.epochs,
        "after_retraining": dict(zip(found.changes, found.after, strict=True)) if found.after else None,
    }
