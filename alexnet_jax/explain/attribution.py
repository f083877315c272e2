"""The page of pictures: which pixels decided the answer, by every method.

    write_page(subject, pictures, Asked(methods=("gradcam", "occlusion"), layer="conv5"), out)

In the folder `out`:

    explain.html                what each method found for each picture
    figures/NAME.png, .svg      a figure for each picture
    NAME-METHOD.png             one map, drawn over the picture
    NAME-METHOD.npz             the map itself: `maps` float32 (M, size, size[, C]), `members`, and what was asked
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from alexnet_jax.errors import UserError, say
from alexnet_jax.explain import figures, methods
from alexnet_jax.explain.pictures import Picture
from alexnet_jax.model.alexnet import LAST
from alexnet_jax.report import page
from alexnet_jax.report.style import any_script, printable
from alexnet_jax.runlog import writing
from alexnet_jax.subject import Subject


class Asked(NamedTuple):
    """What is asked of each picture."""

    methods: tuple[str, ...]
    layer: str  # of Grad-CAM and the deconvnet
    target: int | None = None  # the class; None takes the answer
    filter: int | None = None  # of `layer`, from which the deconvnet starts; None takes the most excited
    settings: methods.Settings = methods.Settings()
    note: str = ""  # shown on the page and in every figure


class Answer(NamedTuple):
    """The answer to a picture, and each method's maps of each network."""

    picture: Picture
    target: int
    probabilities: np.ndarray  # (classes,), the mean of the networks
    unit: str  # that the deconvnet projected
    maps: dict[str, np.ndarray]  # (M, size, size) or (M, size, size, C)


class Explainer:
    """All methods of `asked`, compiled for the networks of a subject.

    Raises:
      UserError: a method isn't defined for these networks or for the layer, or the layer has no such filter.
    """

    def __init__(self, subject: Subject, asked: Asked) -> None:
        self._subject, self._asked = subject, asked
        self._outputs = subject.each(subject.outputs)
        settings = asked.settings.sized(subject.model.arch.input_size)
        self._methods = {
            name: subject.each(methods.make(name, subject.model, asked.layer if name == "deconvnet" else LAST, asked.layer, settings))
            for name in asked.methods
        }
        filters = subject.params[asked.layer]["bias"].shape[-1]
        if asked.filter is not None and asked.filter >= filters:
            raise UserError(f"--filter {asked.filter}: {asked.layer} has {filters} filters, 0 to {filters - 1}")

    def __call__(self, picture: Picture) -> Answer:
        views = self._subject.views(picture.image)
        outputs = self._outputs(views)
        logits = outputs[LAST].astype(np.float64)
        odds = np.exp(logits - logits.max(-1, keepdims=True))
        probabilities = (odds / odds.sum(-1, keepdims=True)).mean(0)
        target = int(probabilities.argmax()) if self._asked.target is None else self._asked.target
        classes = np.zeros(logits.shape, np.float32)
        classes[:, target] = 1
        excited, names = most_excited(outputs[self._asked.layer], self._asked.filter)
        maps = {name: of(views, excited if name == "deconvnet" else classes) for name, of in self._methods.items()}
        unit = f"{self._asked.layer}, {names[0]}" if len(names) == 1 else f"{self._asked.layer}, of each network the most excited unit"
        return Answer(picture, target, probabilities, unit, maps)


def most_excited(outputs: np.ndarray, only: int | None) -> tuple[np.ndarray, list[str]]:
    """Units (M, ...) with a 1 at the largest output of each network (M, ...), of one filter or of all, and their names."""
    units, names = np.zeros(outputs.shape, np.float32), []
    for unit, output in zip(units, outputs, strict=True):
        among = output if only is None else np.where(np.arange(output.shape[-1]) == only, output, -np.inf)
        place = np.unravel_index(among.argmax(), output.shape)
        unit[place] = 1
        names.append(f"filter {place[2]} at row {place[0]}, column {place[1]}" if len(place) == 3 else f"unit {place[0]}")
    return units, names


@any_script()
def write_page(subject: Subject, pictures: Sequence[Picture], asked: Asked, out: Path) -> Path:
    """Explain the pictures one after the other, print what was answered, write their files and the page, and return its path.

    Raises:
      UserError: as `Explainer`, or a file can't be written.
    """
    explainer, sections, lines = Explainer(subject, asked), list[page.Section](), list[str]()
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        answer = explainer(picture)
        sections.append(_section(subject, answer, asked, _write_maps(subject, answer, asked, out)))
        page.write_figures(out / "figures", sections[-1:])
        lines.append(printable(f"{picture.title}: {_in_words(subject, answer)}"))
        say(lines[-1])
    how = [(name, f"{methods.METHODS[name].text}. {READ[methods.METHODS[name].shown]}") for name in asked.methods]
    step = f"at step {int(subject.run.state.step):,}"
    headline = f"{asked.note}. {_WHAT}" if asked.note else _WHAT
    path = out / "explain.html"
    title = f"Which pixels matter to {subject.run.workdir.resolve().name}"
    page.write_page(path, title, f"{subject.who} {step}", headline, [*sections, page.Section("How to read the maps", [page.Pairs(how)])])
    page.write_result(out, "\n".join(lines))
    return path


_WHAT = (
    "Each map shows the pixels that matter to one value of the network. A map is a property of the network and the method: methods answer "
    "different questions, and where they disagree none of them is wrong."
)
READ = {
    "heat": "The stronger the orange, the more it matters, whether for or against.",
    "signed": "Red pixels speak for the class, blue ones against it.",
    "colour": "A picture around mid-grey, divided by its largest value.",
}


def _in_words(subject: Subject, answer: Answer) -> str:
    """`answer Sandal, 98.1 %; explained: Bag, 1.2 %`."""
    best = int(answer.probabilities.argmax())
    words = f"answer {subject.labels[best]}, {100 * answer.probabilities[best]:.1f} %"
    if answer.picture.label is not None:
        words += f"; its class is {answer.picture.label}"
    if answer.target != best:
        words += f"; explained is {subject.labels[answer.target]}, {100 * answer.probabilities[answer.target]:.1f} %"
    return words


def _write_maps(subject: Subject, answer: Answer, asked: Asked, out: Path) -> list[tuple[str, np.ndarray]]:
    """Write each method's overlay and raw map; returns the overlays with the names of their methods."""
    crop, overlays = subject.crop(answer.picture.image), []
    for name, maps in answer.maps.items():
        overlay = figures.over(crop, maps.mean(0), methods.METHODS[name].shown)
        overlays.append((name, overlay))
        path = out / f"{answer.picture.name}-{name}.png"
        with writing(path):
            Image.fromarray(figures.enlarged(overlay).squeeze()).save(path)
            np.savez_compressed(
                path.with_suffix(".npz"),
                maps=maps,
                members=subject.members,
                run=str(subject.run.workdir),
                step=int(subject.run.state.step),
                unit=answer.unit if name == "deconvnet" else f"{LAST}, {subject.labels[answer.target]}",
                settings=str(asked.settings._asdict()),
            )
    return overlays


def _section(subject: Subject, answer: Answer, asked: Asked, overlays: list[tuple[str, np.ndarray]]) -> page.Section:
    words = _in_words(subject, answer)
    text = f"{words[0].upper()}{words[1:]}."
    if "deconvnet" in answer.maps:
        text += f" The deconvnet starts from {answer.unit}."
    if len(subject.members) > 1:
        text += f" Each map is the mean over {len(subject.members)} networks."
    panels = [(subject.short_labels[answer.target], subject.crop(answer.picture.image)), *overlays]
    figure = figures.panels_figure(panels, asked.note, len(panels))
    alt = f"{answer.picture.title}, and maps of it by {', '.join(answer.maps)}. {words}"
    return page.Section(answer.picture.title, [page.Text(text), page.Drawing(answer.picture.name, figure, alt)])
