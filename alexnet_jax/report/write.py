"""Writes the report of a run, and makes the sections that need only its history and its config.

The train command calls it at its end. `python -m experiments.report` adds the sections that need the networks and the dataset:

    write_report("runs/digits")
    write_report("runs/digits", network_sections(Path("runs/digits")))
"""

import json
from collections.abc import Sequence
from pathlib import Path

from alexnet_jax import history
from alexnet_jax.errors import UserError
from alexnet_jax.history import History
from alexnet_jax.record import read_record
from alexnet_jax.report import words
from alexnet_jax.report.charts import ensemble_curve_figure
from alexnet_jax.report.curves import curves_figure, throughput_figure
from alexnet_jax.report.page import Block, Code, Drawing, Folded, Pairs, Section, Table, Text, write_figures, write_page
from alexnet_jax.report.style import any_script


@any_script()
def write_report(workdir: str | Path, network: Sequence[Section] | None = None) -> Path:
    """Write report.html and figures/ into a run directory, finished or not, and return the path of the report.

    Imported weights have no history, so their report shows only the network.

    Args:
      workdir: the run directory.
      network: the sections of `network.network_sections`. Without them, nothing is computed with the networks, and the page names the
        command that adds them.

    Raises:
      UserError: it is not a run directory, or it cannot be read or written.
    """
    workdir = Path(workdir)
    record = read_record(workdir)
    imported = history.is_imported(workdir)
    past = history.load(workdir, missing_ok=imported)
    if imported:
        status, headline = "imported", "These weights were not trained here."
    else:
        if not past.start:
            raise UserError(f"{workdir} has nothing to report yet: no start event in its log")
        status, headline = words.status(past), words.headline(past)
    sections = [] if imported else _how_it_went(past, record)
    sections += [*(_how_to_get_more(workdir) if network is None else network), *_details(past, record)]
    write_figures(workdir / "figures", sections)
    report = workdir / "report.html"
    write_page(report, workdir.resolve().name, status, headline, sections)
    return report


def _how_it_went(past: History, record: dict) -> list[Section]:
    """Summary, training curves, test results and ensemble curve."""
    alt = "Training loss, evaluation error and learning rate against epochs"
    sections = [
        Section("The run", [Pairs(words.summary(past, record))]),
        Section("Training", [Drawing("curves", curves_figure(past), alt)]),
    ]
    test = past.test
    if test:
        heading, *rows = words.result_rows(past)
        sections.append(Section("Results", [Table(heading, rows)]))
    if len(test.get("curve", [])) > 1:
        alt = "Top-1 error by size of the ensemble, with one standard deviation above and below"
        blocks: list[Block] = [
            Text(words.ensemble_in_words(test)),
            Drawing("ensemble", ensemble_curve_figure(test), alt),
            Text("For each size: the mean over all subsets of the members, or over random ones, and one standard deviation over them."),
        ]
        sections.append(Section("The ensemble", blocks))
    return sections


def _how_to_get_more(workdir: Path) -> list[Section]:
    """The text in place of the sections about the networks."""
    text = (
        "Filters, augmentation, confusions, mistakes, predictions, nearest neighbours, calibration and activations need the networks and "
        "the dataset. This command adds them:"
    )
    return [Section("More", [Text(text), Code(f"python -m experiments.report {workdir}")])]


def _details(past: History, record: dict) -> list[Section]:
    """Throughput, config, environment and log."""
    sections = []
    if past.trains:
        alt = "Images read per second against epochs"
        sections.append(Section("Throughput", [Drawing("throughput", throughput_figure(past), alt)]))
    if "config" in record:
        text = "The fields that differ from the study post's recipe, configs/imagenet.py."
        rows = words.recipe_differences(record)
        fields = (f"{name} = {json.dumps(value)}" for name, value in words.flat(record["config"]).items())
        whole = Folded("The whole config", [Code("\n".join(fields))])
        sections.append(Section("Config", [Text(text), Table(("field", "recipe", "this run"), rows, numbers=False), whole]))
    if environment := words.environment(record):
        sections.append(Section("Environment", [Pairs(environment)]))
    if past.events:
        log = "\n".join(f"{time}  {line}" for time, line in words.happenings(past))
        sections.append(Section("Log", [Folded("What happened", [Code(log)])]))
    return sections
