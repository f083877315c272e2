"""A run directory -> report.html and figures/: what was trained, how it went, and how well it does.

    history.py                  events and config in words and numbers
    curves.py charts.py         figures of the events and of other numbers
    pictures.py bars.py         figures of pictures
    answers.py                  what follows from the networks' answers; pure numpy
    network.py                  the sections for which networks and dataset are asked again; needs JAX
    activations.py              what the layers of a network put out
    compare.py                  several runs on one page
    page.py style.py            sections -> a page; how all figures look

A new section is one function that returns a `Section`, and one line here or in network.py.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from alexnet_jax import run
from alexnet_jax.errors import UserError
from alexnet_jax.report import history
from alexnet_jax.report.charts import ensemble_curve_figure
from alexnet_jax.report.curves import curves_figure, throughput_figure
from alexnet_jax.report.history import results_table
from alexnet_jax.report.page import Block, Code, Drawing, Folded, Pairs, Section, Table, Text, write_figures, write_page
from alexnet_jax.report.style import any_script
from alexnet_jax.runlog import read_events

__all__ = ["read_events", "results_table", "write_report"]


@any_script()
def write_report(workdir: str | Path, network: Sequence[Section] | None = None) -> Path:
    """Write report.html and figures/ into a run directory, finished or not; returns the report's path.

    One of weights that were imported has no history, and tells of the network alone. Without the sections of `network.network_sections`
    nothing is computed with the networks: the page says how to get them.

    Raises:
      UserError: not a run directory, or one that cannot be read or written.
    """
    workdir = Path(workdir)
    record = history.read_record(workdir)
    if run.is_imported(workdir):
        events, status, headline = [], "imported", "Weights that were not trained here."
    else:
        events = read_events(workdir)
        if not any(event["event"] == "start" for event in events):
            raise UserError(f"{workdir} has nothing to report yet: no start event in its log")
        status, headline = history.status(events), history.headline(events)
    sections = _how_it_went(events, record) if events else []
    sections += [*(_how_to_get_more(workdir) if network is None else network), *_on_record(events, record)]
    write_figures(workdir / "figures", sections)
    report = workdir / "report.html"
    write_page(report, workdir.resolve().name, status, headline, sections)
    return report


def _how_it_went(events: list[dict], record: dict) -> list[Section]:
    alt = "Training loss, evaluation error and learning rate against epochs"
    sections = [
        Section("The run", [Pairs(history.summary(events, record))]),
        Section("Training", [Drawing("curves", curves_figure(events), alt)]),
    ]
    test = history.test_of(events)
    if test:
        heading, *rows = history.result_rows(events)
        sections.append(Section("Results", [Table(heading, rows)]))
    if len(test.get("curve", [])) > 1:
        alt = "Top-1 error by size of the ensemble, with a standard deviation either way"
        blocks: list[Block] = [
            Text(history.ensemble_in_words(test)),
            Drawing("ensemble", ensemble_curve_figure(test), alt),
            Text("The mean over subsets of the members, all or at most 100 of each size, and one standard deviation over these subsets."),
        ]
        sections.append(Section("The ensemble", blocks))
    return sections


def _how_to_get_more(workdir: Path) -> list[Section]:
    """What stands in the place of the network's sections."""
    text = (
        "Filters, augmentation, confusions, mistakes, predictions, nearest neighbours, calibration and activations take the network and "
        "the dataset once more. This command adds them:"
    )
    return [Section("More", [Text(text), Code(f"python -m experiments.report {workdir}")])]


def _on_record(events: list[dict], record: dict) -> list[Section]:
    sections = []
    if history.speeds(events):
        alt = "Images a second over the run"
        sections.append(Section("Throughput", [Drawing("throughput", throughput_figure(events), alt)]))
    if "config" in record:
        text = "Where this run differs from the study post's recipe, configs/imagenet.py."
        rows = history.recipe_differences(record)
        fields = (f"{name} = {json.dumps(value)}" for name, value in history.flat(record["config"]).items())
        whole = Folded("The whole config", [Code("\n".join(fields))])
        sections.append(Section("Config", [Text(text), Table(("field", "recipe", "this run"), rows, numbers=False), whole]))
    if environment := history.environment(record):
        sections.append(Section("Environment", [Pairs(environment)]))
    if events:
        log = "\n".join(f"{time}  {line}" for time, line in history.happenings(events))
        sections.append(Section("Log", [Folded("What happened", [Code(log)])]))
    return sections
