"""Makes the sections of a report that need the networks and the dataset: filters, mistakes, predictions, activations and others.

`python -m experiments.report` calls it:

    write_report("runs/digits", network_sections(Path("runs/digits")))
"""

import json
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from alexnet_jax import data, evaluate, history, metrics, parallel, run
from alexnet_jax.data import Dataset
from alexnet_jax.errors import UserError
from alexnet_jax.hyper import AUGMENTATIONS
from alexnet_jax.metrics import reliability
from alexnet_jax.report import activations, charts, pictures
from alexnet_jax.report.answers import Answers, confident_mistakes, confusion_matrix, most_confused, unsure
from alexnet_jax.report.bars import BARS, Bars, bars_figure
from alexnet_jax.report.page import Block, Drawing, Folded, Section, Table, Text
from alexnet_jax.report.style import COLOURS, any_script

SAMPLE = 512  # images for the statistics of layers
TRAINING_SAMPLE = 3000  # training images that are searched for neighbours
CONFUSIONS = 12  # rows of the table of confusions
MISTAKES = 12  # pictures in the figure of mistakes
AUGMENTED = (4, 6)  # training images, augmentations of each
NEIGHBOURS = (5, 6)  # test images, training images next to each


class Subject(NamedTuple):
    """A run, and the dataset and predictions that its sections show."""

    run: run.Run
    member: int  # the member whose layers are shown: the first that has not diverged
    dataset: Dataset
    split: str  # the test split if the run has finished; before that, the validation split
    predictions: metrics.Predictions

    @property
    def voters(self) -> str:
        names = self.predictions.member_names
        return "the network" if len(names) == 1 else f"the ensemble of {len(names)}"

    @property
    def name(self) -> str:
        return self.predictions.member_names[self.member]


@any_script()
def network_sections(workdir: Path) -> list[Section]:
    """Make all sections that are possible. If a checkpoint or the dataset is missing, one line says so.

    Raises:
      UserError: it is not a run directory.
    """
    imported = history.is_imported(workdir)
    finished = imported or bool(history.load(workdir).test)
    try:
        loaded = run.load(workdir)
    except UserError as error:
        return [_left_out("Every section about the networks", error)]
    healthy = [
        m for m in range(loaded.network.hyper.members) if all(np.isfinite(leaf[m]).all() for leaf in jax.tree.leaves(loaded.state.params))
    ]
    if not healthy:
        return [_left_out("Every section about the networks", UserError("every member has diverged"))]
    sections = [filters_section(loaded, healthy)]
    try:
        subject = _subject(loaded, healthy[0], finished, imported)
    except UserError as error:
        return [*sections, *_from_stored_answers(loaded), _left_out("Every section that needs the dataset", error)]
    answers = Answers(**metrics.answers(subject.predictions))
    return [
        *sections,
        augmentations_section(subject),
        confusion_section(answers, subject.dataset.labels, subject.split),
        mistakes_section(subject, answers),
        bars_section(subject, answers),
        neighbours_section(subject),
        calibration_section(answers, subject.predictions.member_names, subject.split),
        activations_section(subject, healthy),
    ]


def filters_section(loaded: run.Run, healthy: list[int]) -> Section:
    """First-layer filters as in the paper's Figure 3: of one member and, folded, of others."""
    names, kernels = loaded.network.member_names, np.asarray(loaded.state.params["conv1"]["kernel"])
    arch, (_, size, _, channels, count) = loaded.network.model.arch, kernels.shape
    text = (
        f"The {count} filters of {names[healthy[0]]} after {int(loaded.state.step):,} steps, {size} x {size} pixels at stride "
        f"{arch.stem_stride}. Each filter is divided by its largest weight; mid-grey is zero."
    )
    if size < 11:
        pixels = f"{arch.input_size} x {arch.input_size}"
        text += f" They are smaller than the paper's (11 x 11 at stride 4, for 224 x 224 pixels), since the input has {pixels} pixels."
    if channels != 3:
        text += " They have no colour, since the images are grey." if channels == 1 else f" The mean of their {channels} channels is shown."
    blocks: list[Block] = [Text(text), _filters(kernels[healthy[0]], "filters", names[healthy[0]])]
    others = healthy[1 : len(COLOURS)]
    if others:
        more = [block for m in others for block in (Text(names[m]), _filters(kernels[m], f"filters-{m}", names[m]))]
        blocks.append(Folded("Filters of " + ("other members" if len(others) < len(healthy) - 1 else "the other members"), more))
    return Section("First-layer filters", blocks)


def _filters(kernels: np.ndarray, file: str, member: str) -> Drawing:
    return Drawing(file, pictures.filters_figure(kernels), f"The filters of the first layer of {member}")


def augmentations_section(subject: Subject) -> Section:
    """Training images and their augmentations."""
    images, _ = activations.sample(subject.dataset.source(subject.run.config.data.train_split), AUGMENTED[0])
    views = activations.augmented(subject.run, subject.member, images, AUGMENTED[1])
    strengths = {name: float(np.asarray(getattr(subject.run.state.hyper, name))[subject.member]) for name in AUGMENTATIONS}
    drawn = ", ".join(f"{name} {value:g}{' degrees' if name == 'rotation' else ''}" for name, value in strengths.items() if value)
    text = (
        f"Each row shows a stored training image and {AUGMENTED[1]} random augmentations of it, as {subject.name} sees them; the "
        f"mean is added again. Strengths: {drawn or 'every augmentation is off'}."
    )
    return Section("Augmentation", [Text(text), Drawing("augmentations", pictures.augmentations_figure(images, views), text)])


def confusion_section(answers: Answers, classes: tuple[str, ...], split: str) -> Section:
    """The most frequent confusions, and the confusion matrix if there are few classes."""
    matrix = confusion_matrix(answers.label, answers.ensemble_answer, len(classes))
    rows = [
        (classes[i], classes[j], f"{count:,}", f"{100 * count / matrix[i].sum():.1f} %")
        for i, j, count in most_confused(matrix, CONFUSIONS)
    ]
    wrong = int(matrix.sum() - np.trace(matrix))
    blocks: list[Block] = [
        Text(f"{wrong:,} of {matrix.sum():,} {split} images are classified wrongly{'.' if not rows else '. The most frequent confusions:'}")
    ]
    if rows:
        blocks.append(Table(("class", "taken for", "images", "of the class"), rows))
    if len(classes) <= charts.MATRIX:
        alt = "Confusion matrix: how often images of each class got each answer"
        blocks.append(Drawing("confusion", charts.confusion_figure(matrix, classes), alt))
    return Section("Confusions", blocks)


def mistakes_section(subject: Subject, answers: Answers) -> Section:
    """The ensemble's most confident wrong answers; its least confident answers if none is wrong."""
    places, title = confident_mistakes(answers, MISTAKES), "Most confident mistakes"
    text = f"The wrong answers with the highest probability from {subject.voters}: the true class, the answer, and its probability."
    if not len(places):
        places, title = unsure(answers, MISTAKES), "Least confident answers"
        text = f"All {len(answers.label):,} answers of {subject.voters} are right. These have the lowest probability."
    images, labels = activations.examples(subject.dataset.source(subject.split), places)
    classes = subject.dataset.labels
    shown = [
        pictures.Mistake(image, classes[label], classes[answers.ensemble_answer[i]], answers.ensemble_confidence[i])
        for image, label, i in zip(images, labels, places, strict=True)
    ]
    alt = "; ".join(f"{one.label} taken for {one.answer}" for one in shown)
    return Section(title, [Text(text), Drawing("mistakes", pictures.mistakes_figure(shown), alt)])


def bars_section(subject: Subject, answers: Answers) -> Section:
    """Images with their likeliest classes, as in the left half of the paper's Figure 4."""
    hard = unsure(answers, 4)
    others = np.setdiff1d(np.arange(len(answers.label)), hard)
    places = np.concatenate([np.random.default_rng(0).permutation(others)[:4], hard])
    images, labels = activations.examples(subject.dataset.source(subject.split), places)
    classes, probabilities = subject.dataset.labels, np.exp(metrics.average(metrics.voting(subject.predictions.log_probs)[:, places]))
    shown = []
    for image, label, row in zip(images, labels, probabilities, strict=True):
        top = [{"label": classes[i], "index": int(i), "probability": row[i]} for i in np.argsort(-row, kind="stable")[:BARS]]
        shown.append(Bars(image, classes[label], top, int(label)))
    text = (
        f"Four {subject.split} images drawn at random, then the four for which {subject.voters} is least confident. Below each are its "
        "class and the likeliest answers: the right answer is blue, a wrong first answer is red."
    )
    return Section("Predictions", [Text(text), Drawing("predictions", bars_figure(shown, 4, 1.3, 9), text)])


def neighbours_section(subject: Subject) -> Section:
    """Nearest neighbours in the features of the last hidden layer, as in the right half of the paper's Figure 4."""
    source = subject.dataset.source(subject.split)
    train_images, train_labels = activations.sample(subject.dataset.source(subject.run.config.data.train_split), TRAINING_SAMPLE)
    order = np.random.default_rng(1).permutation(len(source))
    labels = subject.predictions.labels[order]
    places = order[np.sort(np.unique(labels, return_index=True)[1])][: NEIGHBOURS[0]]  # of different classes
    images, labels = activations.examples(source, places)
    of_test, of_train = (activations.features(subject.run, subject.member, each) for each in (images, train_images))
    found = activations.nearest(of_test, of_train, NEIGHBOURS[1])
    classes = subject.dataset.labels
    rows = [
        [(image, classes[label]), *((train_images[i], classes[train_labels[i]]) for i in near)]
        for image, label, near in zip(images, labels, found, strict=True)
    ]
    text = (
        f"Each row shows a {subject.split} image and the {NEIGHBOURS[1]} of {len(train_images):,} training images that are nearest to it, "
        f"by Euclidean distance between the features in fc7 of {subject.name}. A red label is another class than the first image's."
    )
    return Section("Nearest neighbours", [Text(text), Drawing("neighbours", pictures.neighbours_figure(rows, subject.split), text)])


def calibration_section(answers: Answers, names: list[str], split: str) -> Section:
    """The reliability diagram, and the expected calibration errors."""
    members = [
        reliability(confidence, answer == answers.label) for confidence, answer in zip(answers.confidence, answers.answer, strict=True)
    ]
    ensemble = reliability(answers.ensemble_confidence, answers.ensemble_answer == answers.label)
    rows = [(name, f"{100 * bins.ece:.2f} %") for name, bins in zip(names, members, strict=True)]
    if len(names) > len(COLOURS):
        eces = [bins.ece for bins in members if len(bins.counts)]  # of the members that have not diverged
        rows = [("mean of the members", f"{100 * sum(eces) / max(len(eces), 1):.2f} %")]
    if len(names) > 1:
        rows.append(("ensemble", f"{100 * ensemble.ece:.2f} %"))
    text = (
        f"The percentage of right answers by their confidence (the answer's probability), on the {split} images. The thick line is "
        f"{'the ensemble, thin lines are its members' if len(names) > 1 else 'the network'}, and the dashed line is perfect calibration. "
        f"The expected calibration error (ECE) is the mean distance from the dashed line, over {metrics.BINS} bins of confidence."
    )
    drawing = Drawing("calibration", charts.reliability_figure(members, ensemble), "Reliability diagram: accuracy against confidence")
    return Section("Calibration", [Text(text), drawing, Table(("", "ECE"), rows)])


def activations_section(subject: Subject, members: list[int]) -> Section:
    """Statistics of the outputs of each layer."""
    images, _ = activations.sample(subject.dataset.source(subject.split), SAMPLE)
    found = activations.layer_statistics(subject.run, members, images)
    mean, std, zeros, dead = (values.mean(0) for values in (found.mean, found.std, found.zeros, found.dead))
    rows = [
        (layer, f"{a:#.3g}", f"{b:#.3g}", f"{100 * c:.1f} %", f"{100 * d:.1f} %")
        for layer, a, b, c, d in zip(found.layers, mean, std, zeros, dead, strict=True)
    ]
    text = (
        f"The outputs of the layers after their activations, on {len(images):,} {subject.split} images"
        f"{f'; bars are means over {len(members)} members, each of them a dot' if len(members) > 1 else ''}. A unit is dead if it is zero "
        "for every image. A filter counts as one unit: it is dead if it is zero at every place of every image."
    )
    drawing = Drawing("activations", charts.activations_figure(found), "Zeros, dead units, mean and standard deviation of each layer")
    return Section("Activations", [Text(text), drawing, Table(("layer", "mean", "std", "zeros", "dead units"), rows)])


def _subject(loaded: run.Run, member: int, finished: bool, imported: bool) -> Subject:
    """Open the run's dataset and predict a split of it with all members. Imported weights accept any dataset that has their classes.

    Raises:
      UserError: the dataset does not exist, or is another one; only the order of its classes may have changed.
    """

    def unordered(description: dict) -> dict:
        fields = {name: sorted(value) if name.startswith("class") else value for name, value in description.items()}
        return json.loads(json.dumps(fields))

    config = loaded.config
    dataset = data.load(config.data, config.model.pixel_mean)
    now, before = map(unordered, data.comparable(dataset.describe(), run.read_config(loaded.workdir)["dataset"]))
    if not imported and now != before:
        raise UserError(f"the dataset {dataset.name} in {config.data.dir} is not the one that the run was trained on")
    split = config.data.test_split if finished else config.data.validation_split
    predictions, _ = evaluate.predict_run(loaded.workdir, split, batch_size=parallel.even(config.eval.batch_size))
    return Subject(run.in_order(loaded, dataset.name, dataset.classes), member, dataset, split, predictions)


def _from_stored_answers(loaded: run.Run) -> list[Section]:
    """The sections that need only the stored answers of a finished run, without the dataset; empty if none are stored."""
    try:
        answers = Answers(**run.load_predictions(loaded.workdir))
    except UserError:
        return []
    split = loaded.config.data.test_split
    labels = data.class_labels(run.read_config(loaded.workdir)["dataset"])
    return [confusion_section(answers, labels, split), calibration_section(answers, loaded.network.member_names, split)]


def _left_out(what: str, error: UserError) -> Section:
    return Section("Left out", [Text(f"{what} is left out: {error}.")])
