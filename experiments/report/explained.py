"""The sections of a report that explain the networks, light enough for every run; the commands explain and experiments.lrn show more.

The command (__main__.py) adds them:

    write_report(workdir, [*network_sections(workdir), *explained_sections(workdir)])
"""

from contextlib import suppress
from pathlib import Path

import numpy as np

from alexnet_jax import history, run
from alexnet_jax.data import Dataset, short_labels
from alexnet_jax.errors import UserError
from alexnet_jax.explain import figures, methods, units
from alexnet_jax.explain.choice import chosen
from alexnet_jax.model.alexnet import LAST
from alexnet_jax.model.layers import receptive_fields
from alexnet_jax.report.answers import Answers, confident_mistakes, unsure
from alexnet_jax.report.page import Code, Drawing, Section, Table, Text
from alexnet_jax.report.style import any_script
from alexnet_jax.subject import Subject, open_dataset, open_networks
from experiments.lrn.measure import MARKS, measure

SAMPLE = 1000  # images that are searched, and on which LRN is measured
LAYER, FILTERS = "conv5", "6"
MISTAKES = 4


@any_script()
def explained_sections(workdir: Path) -> list[Section]:
    """All sections that are possible, of the first network that hasn't diverged. Where the networks or the dataset are missing, there are
    none: the report says so elsewhere.
    """
    try:
        subject = open_networks(workdir, None, "last")
        dataset = open_dataset(subject, None)
        config, finished = subject.run.config, history.is_imported(workdir) or bool(history.load(workdir).test)
        split = config.data.test_split if finished else config.data.validation_split
        images = len(dataset.source(split))
    except UserError:
        return []
    sample = split if "[" in split else f"{split}[:{min(SAMPLE, images)}]"
    sections = [lrn_section(subject, dataset, sample)] if subject.model.arch.lrn else []
    if subject.model.arch.activation == "relu":
        sections.append(units_section(subject, dataset, sample))
    with suppress(UserError):  # the run hasn't finished
        sections.append(mistakes_section(subject, dataset, Answers(**run.load_predictions(workdir))))
    return sections


def lrn_section(subject: Subject, dataset: Dataset, split: str) -> Section:
    """How much LRN changes the units of each layer."""
    layers = measure(subject, dataset.source(split))
    rows = [(layer.name, *(f"{100 * layer.share(mark)[0]:.1f} %" for mark in MARKS)) for layer in layers]
    text = (
        f"Of the active units of {subject.members[0]} on {split}, the share that LRN changes by more than so much, against the constant "
        "k^beta that it is where neighbours are weak. Which filters inhibit which, and the errors without LRN, shows:"
    )
    heading = ("layer", *(f"more than {100 * mark:g} %" for mark in MARKS))
    command = f"python -m experiments.lrn --run {subject.run.workdir} --out DIR"
    return Section("What LRN does", [Text(text), Code(command), Table(heading, rows)])


def units_section(subject: Subject, dataset: Dataset, split: str) -> Section:
    """What excites some filters of the last convolution, and their projections by the deconvnet."""
    of, source = chosen(FILTERS, subject.shapes[LAYER][-1], LAYER), dataset.source(split)
    found = units.search(subject, dataset, units.Asked([LAYER], FILTERS, 9, split), {LAYER: of})[LAYER]
    field = receptive_fields(subject.model.arch, subject.channels)[LAYER]
    figure = figures.units_figure(of, *units.project(subject, source, LAYER, of, found, field), "")
    text = (
        f"For {len(of)} random filters of {LAYER} of {subject.members[0]}, the images of {split} with the largest outputs, cut to the "
        f"unit's receptive field of {field.size} pixels, and beside them what in each did it, projected by the deconvnet. For all layers:"
    )
    command = f"python -m alexnet_jax.explain --run {subject.run.workdir} --units conv1..conv5 --out DIR"
    return Section("What excites a filter", [Text(text), Code(command), Drawing("units", figure, text)])


def mistakes_section(subject: Subject, dataset: Dataset, answers: Answers) -> Section:
    """The occlusion maps of the ensemble's most confident mistakes, or of its least confident answers if none is wrong."""
    places = confident_mistakes(answers, MISTAKES)
    what = "most confident mistakes" if len(places) else "least confident answers"
    places = places if len(places) else unsure(answers, MISTAKES)
    settings = methods.Settings().sized(subject.model.arch.input_size)
    occlusion = subject.each(methods.make("occlusion", subject.model, LAST, LAYER, settings))
    panels, labels = [], short_labels(dataset.classes, dataset.labels)
    for place in places:
        example = dataset.source(subject.run.config.data.test_split)[int(place)]
        answer, crop = int(answers.ensemble_answer[place]), subject.crop(example["image"])
        (found,) = occlusion(subject.views(example["image"]), np.eye(len(subject.labels), dtype=np.float32)[None, answer])
        panels += [(labels[example["label"]], crop), (f"why {labels[answer]}", figures.over(crop, found, "signed"))]
    text = (
        f"The {what}, and how the answer's logit in {subject.members[0]} falls when a grey square covers a pixel: red pixels speak for the "
        "answer, blue ones against it. Other methods, and other pictures:"
    )
    command = f"python -m alexnet_jax.explain --run {subject.run.workdir} PICTURES --out DIR"
    alt = "; ".join(name for name, _ in panels)
    return Section(f"Why the {what}", [Text(text), Code(command), Drawing("occlusion", figures.panels_figure(panels, "", 2), alt)])
