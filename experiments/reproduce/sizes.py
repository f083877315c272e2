"""The target `augmentation` of `experiments.reproduce`: the error with and without augmentation against the number of training images.

The command (__main__.py) calls it:

    lines = augmentation(setting.make("digits", "quick", 3, out, overrides, args))    # text for the terminal; None after a dry run
"""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from alexnet_jax import config as config_lib
from alexnet_jax.errors import UserError
from experiments import published
from experiments.ablate import figures
from experiments.ablate.factors import STRENGTHS
from experiments.ablate.report import MARGIN, report
from experiments.ablate.study import Study
from experiments.reproduce.claims import trained, verdicts
from experiments.reproduce.figure1 import training_errors
from experiments.reproduce.setting import Setting, changed, differences

SIZES = (250, 1000, 4000, 16000)  # so many training images are tried, as far as there are more, and with all
LAST = 10  # log lines whose mean is the training error at the end
# Config fields in epochs. With fewer images they are multiplied, so that the number of steps stays the same.
IN_EPOCHS = (
    "train.epochs",
    "train.checkpoint_every_epochs",
    "eval.every_epochs",
    "optimizer.warmup_epochs",
    "optimizer.drop_epochs",
)


def augmentation(setting: Setting) -> list[str] | None:
    """The error with and without augmentation against the number of training images; with the fewest and with all, each one alone too."""
    images = setting.images
    sizes = [*(size for size in SIZES if size < images), images]
    lines, curves = [f"published: {published.CLAIMS['augment']}"], {}
    for size in sizes:
        print(f"\n{size:,} training images:", flush=True)
        part = setting if size == images else _with_images(setting, size)
        where = f"augmentation/{images}-images" if size == images else "."
        factor = "augment" if size in (sizes[0], images) else "any_augment"
        study = trained(part, factor)
        if study:
            found = report(study, MARGIN, part.root / where)
            lines += [f"with {size:,} training images", *verdicts(found), _training_errors_in_words(study, factor)]
            curves[size] = {level["level"]: level for level in found["factors"][0]["levels"] if level["level"] in ("as configured", "none")}
    if setting.args.dry_run:
        return None
    figures.save(figures.sizes_figure(curves), setting.root / "augmentation" / "sizes")
    rate = setting.loaded.optimizer.learning_rate
    notes = (
        f"augmentation: as configured is {_strengths(setting)}, together; all networks train at the learning rate {rate:g}",
        "images: the subsets are stratified, and each is part of the next",
        f"training: the number of steps is the same with {sizes[0]:,} images as with {images:,}",
    )
    return [*lines, crossing(curves), *differences(setting, *notes)]


def _strengths(setting: Setting) -> str:
    """The kinds of augmentation that the config uses, with their strengths; a crop only where the stored images are larger."""
    augment, shape = setting.loaded.augment, setting.dataset.image_shape
    larger = min(shape[:2]) > setting.loaded.model.input_size
    return ", ".join(f"{name} {augment[name]:g}" for name in STRENGTHS if augment[name] and (name != "crop" or larger))


def _training_errors_in_words(study: Study, factor: str) -> str:
    """How well the networks that didn't diverge know their training images at the end: whether they overfit."""
    curves, levels = training_errors(study.compared), study.factors[factor].levels
    dropout, words = f"with dropout {study.loaded.model.dropout:g}", []
    for name, images in (("as configured", "of augmented images"), ("none", "without augmentation")):
        errors = curves[levels[name].name][1][-LAST:]
        words.append(f"{100 * np.nanmean(errors):.2f} % {images}" if np.isfinite(errors).any() else f"none {images}, as all diverged")
    return f"training error at the end, {dropout}: {', '.join(words)}"


def _with_images(setting: Setting, size: int) -> Setting:
    """The setting with a part of its training images, trained for as many steps.

    Raises:
      UserError: the config's own part of the split does not contain this part.
    """
    fields = config_lib.flat(setting.loaded)
    name, _, cut = setting.loaded.data.train_split.partition("[")
    if cut and not cut.startswith("stratified:"):
        raise UserError(
            f"data.train_split={setting.loaded.data.train_split}: the target needs stratified parts of it; write {name} or "
            f"{name}[stratified:N]"
        )
    longer = setting.images / size
    overrides = [f"data.train_split={name}[stratified:{size}]", *(f"{field}={_times(fields[field], longer)}" for field in IN_EPOCHS)]
    return setting._replace(overrides=changed(setting.overrides, overrides), root=setting.root / "augmentation" / f"{size}-images")


def crossing(curves: Mapping[int, Mapping[str, dict[str, Any]]]) -> str:
    """Where augmentation begins or ceases to help, in words: between two sizes the difference is taken to be linear in their logarithm.

    Only sizes count at which the interval of the difference does not contain zero.

    Args:
      curves: number of training images -> the levels "as configured" and "none", as of `comparison.compare`; increasing.
    """
    found = {size: levels["none"]["difference"] for size, levels in curves.items()}
    decided = {size: each["mean"] for size, each in found.items() if each["low"] > 0 or each["high"] < 0}
    ranges = []
    for (size, gain), (next_size, next_gain) in itertools.pairwise(decided.items()):
        if gain * next_gain < 0:
            share = gain / (gain - next_gain)
            at = float(np.exp(np.log(size) * (1 - share) + np.log(next_size) * share))
            ranges.append(f"{_compared(gain)} up to about {float(f'{at:.2g}'):,.0f} images")
    open_sizes = [f"{size:,}" for size in curves if size not in decided]
    undecided = f"; not decided with {', '.join(open_sizes)} images" if open_sizes else ""
    if not decided:
        return f"with augmentation the error is neither lower nor higher for sure{undecided}"
    last = _compared(list(decided.values())[-1])
    return f"with augmentation the error is {', '.join([*ranges, f'{last} with more' if ranges else last])}{undecided}"


def _compared(gain: float) -> str:
    return "lower" if gain > 0 else "higher"


def _times(value: Any, factor: float) -> str:
    """A number, or each number of a tuple, multiplied by a factor; as text for the command line."""
    if isinstance(value, tuple):
        return str(tuple(float(_times(item, factor)) for item in value))
    return f"{value * factor:.6g}"
