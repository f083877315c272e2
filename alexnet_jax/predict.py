"""Classifies pictures with the networks of a run: as text, as JSON, and as a figure like the paper's Figure 4.

    python -m alexnet_jax.predict --run runs/digits photo.jpg scans/
    python -m alexnet_jax.predict --run runs/digits scans/ --ten-crop --json answers.json --figure answers.png

The answer is the mean of the members' probabilities; with --member it is the answer of one network. Pictures are scaled and cropped as
`prepare` does it. A file that isn't a picture is named on stderr and left out; the exit code is then 1.
"""

import argparse
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from alexnet_jax import config as config_lib
from alexnet_jax.errors import UserError, may_be_gone, run_cli
from alexnet_jax.history import plain
from alexnet_jax.images import is_image, load_resized
from alexnet_jax.pictures import find_images
from alexnet_jax.prepare.folders import EXTENSIONS
from alexnet_jax.progress import ImageBar
from alexnet_jax.report.bars import BARS, Bars, bars_figure
from alexnet_jax.report.style import any_script, printable
from alexnet_jax.runlog import check_place, replacing, writing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES = 16  # a figure shows at most this many
FEW_BATCHES = 3  # up to this many batches, there is no progress bar
STDOUT = Path("-")


class Prediction(NamedTuple):
    """The answer to one picture."""

    file: Path
    image: np.ndarray  # uint8 (size, size, C), scaled and cropped
    top: list[dict[str, Any]]  # label, index, probability (float32); the likeliest first


class Predictor:
    """The networks of a run, or one of them, as one compiled program that answers batches of one size.

    Args:
      workdir: the run directory.
      images: how many pictures there are; a batch is no larger than needed for them.
      member: the name or the index of one member; None takes all members.
      ten_crop: average the paper's ten views.
      batch_size: pictures in a batch; by default the config's eval.batch_size (a tenth of it for ten crops), made even for the devices.

    Raises:
      UserError: the run can't be loaded, it has no such member, or the devices can't share `batch_size` evenly.
    """

    def __init__(
        self,
        workdir: Path,
        images: int,
        member: str | None = None,
        ten_crop: bool = False,
        batch_size: int | None = None,
        step: str = "last",
    ):
        import jax

        from alexnet_jax import data, parallel, run, turns
        from alexnet_jax.model.forward import make_log_probs

        loaded, dataset = run.load(workdir, step), run.read_config(workdir)["dataset"]
        self.channels = dataset["image_shape"][2]
        model, self.members = loaded.network.model, loaded.network.member_names
        params, hyper = loaded.state.params, loaded.state.hyper
        if member is not None:
            m = loaded.member(member)
            self.members = self.members[m : m + 1]
            params, hyper = jax.tree.map(lambda leaf: leaf[m : m + 1], (params, hyper))
        if batch_size is not None:
            parallel.check_batch_size(batch_size, "--batch-size")
        largest = batch_size or max(1, loaded.config.eval.batch_size // (10 if ten_crop else 1))
        self.batch_size = parallel.even(min(largest, images))
        self.resize, self.classes, self.diverged = data.resize_of(dataset), data.class_labels(dataset), set[str]()
        self.protocol = {
            "run": str(workdir),
            "step": int(loaded.state.step),
            "members": self.members,
            "views": 10 if ten_crop else 1,
            "input_size": model.arch.input_size,
            "stored_size": self.resize.size,
            "resize": self.resize.how,
            "interpolation": self.resize.interpolation,
            "averaging": "softmax",
        }
        in_turn = turns.plan(len(self.members), loaded.config.train.members_per_program)
        log_probs = make_log_probs(model, loaded.stats, ten_crop)
        self._log_probs = turns.predictor(log_probs, in_turn, turns.place(params, in_turn), turns.place(hyper, in_turn))

    def prepare(self, file: Path) -> np.ndarray:
        """Load a picture in the form of the run's dataset, uint8 (size, size, C). For a grey dataset, colours become their luminance.

        Raises:
          UserError: the file can't be read, or is not a picture.
        """
        return load_resized(file, self.resize, self.channels)

    def probabilities(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """The mean probabilities of the members, float32 (n, classes), for prepared pictures, at most a batch of them.

        Members whose answer is NaN are left out of the mean, and added to `diverged`.

        Raises:
          UserError: the answer of every member is NaN.
        """
        batch = np.zeros((self.batch_size, *images[0].shape), np.uint8)
        batch[: len(images)] = images
        log_probs = self._log_probs(batch)[:, : len(images)]
        lost = np.isnan(log_probs).any(-1)
        if lost.all(0).any():
            raise UserError(f"{', '.join(self.members)}: diverged in training, so the answer is NaN; choose another --member or --run")
        self.diverged.update(itertools.compress(self.members, lost.any(1)))
        return np.nanmean(np.exp(log_probs), axis=0)

    def predict(self, files: Iterable[Path], top: int, skip: Callable[[UserError], object]) -> Iterator[Prediction]:
        """Yield the answer to each file, computed batch by batch. `skip` gets the error of each file that can't be read."""

        def pictures() -> Iterator[tuple[Path, np.ndarray]]:
            for file in files:
                try:
                    yield file, self.prepare(file)
                except UserError as error:
                    skip(error)

        remaining = pictures()
        while batch := list(itertools.islice(remaining, self.batch_size)):
            for (file, image), row in zip(batch, self.probabilities([image for _, image in batch]), strict=True):
                best = np.argsort(-row, kind="stable")[:top]
                yield Prediction(file, image, [{"label": self.classes[i], "index": int(i), "probability": row[i]} for i in best])


def text(prediction: Prediction) -> str:
    """The file's name, and a line for each answer."""
    rows = [f"  {100 * row['probability']:6.2f}%  {printable(row['label'])}" for row in prediction.top]
    return "\n".join([printable(prediction.file), *rows])


def figure(predictions: Sequence[Prediction]) -> "Figure":
    """A figure like the paper's Figure 4: each picture, its file's name, and a bar for each of its likeliest classes."""
    columns = len(predictions) if len(predictions) <= 4 else -(-len(predictions) // 2)  # wide, as a slide is
    return bars_figure([Bars(one.image, one.file.name, one.top, keep_end=12) for one in predictions], columns)


def _check_outputs(json_file: Path | None, figure_file: Path | None) -> None:
    """Refuse early an output that can't be written, or that would replace a picture: `--json photo.jpg` was meant as one to classify."""
    if json_file and (json_file.suffix.lower() in EXTENSIONS or (json_file.is_file() and is_image(json_file))):
        raise UserError(f"--json {json_file} would overwrite a picture; put --json after the pictures, or write --json=FILE")
    if figure_file and figure_file.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise UserError(f"--figure {figure_file}: the name must end in .png, .svg or .pdf")
    if figure_file and figure_file.is_file() and (content := figure_file.read_bytes()) and b"Matplotlib" not in content:  # it signs its own
        raise UserError(f"--figure {figure_file} would overwrite a picture that isn't a figure of this command; choose another name")
    for file in filter(None, (json_file, figure_file)):
        check_place(file)


def _check_inputs(files: Sequence[Path], outputs: Iterable[Path | None]) -> None:
    """Refuse an output that is one of the files to classify, by whatever name."""
    for output in filter(None, outputs):
        if os.path.isfile(output) and any(os.path.exists(file) and os.path.samefile(file, output) for file in files):
            raise UserError(f"{output} is among the pictures to classify and would be overwritten; write to another file")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m alexnet_jax.predict", description="Classify pictures with the networks of a run.")
    parser.add_argument("--run", required=True, metavar="DIR", type=config_lib.path, help="a run directory")
    parser.add_argument("images", nargs="*", metavar="IMAGES", type=config_lib.path, help="pictures, and folders with pictures")
    parser.add_argument("--top", type=config_lib.positive, default=5, metavar="K", help="number of answers for each picture (default: 5)")
    parser.add_argument("--ten-crop", action="store_true", help="average the paper's ten views")
    parser.add_argument(
        "--step", default="last", metavar="N", help="the checkpoint: last (default), best by validation accuracy, or a step"
    )
    parser.add_argument("--member", metavar="NAME_OR_INDEX", help="use one network (default: the ensemble of all)")
    parser.add_argument("--figure", type=config_lib.path, metavar="FILE", help=f"draw the first {PICTURES} pictures with up to {BARS} bars")
    parser.add_argument(
        "--json",
        nargs="?",
        type=config_lib.path,
        const=STDOUT,
        metavar="FILE",
        help="write JSON to FILE; without FILE, print it instead of text",
    )
    parser.add_argument(
        "--batch-size", type=config_lib.positive, metavar="N", help="pictures in a batch (default: the config's eval.batch_size)"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_intermixed_args(argv)
    json_file = None if args.json == STDOUT else args.json
    _check_outputs(json_file, args.figure)
    files = find_images(args.images)
    _check_inputs(files, (json_file, args.figure))

    from alexnet_jax import parallel

    parallel.start()
    predictor = Predictor(args.run, len(files), args.member, args.ten_crop, args.batch_size, args.step)
    bar, many = ImageBar(len(files)), len(files) > FEW_BATCHES * predictor.batch_size

    def say(message: str) -> None:
        bar.say(printable(message))

    def advance() -> None:
        if many:
            bar.add(1)

    def skip(error: UserError) -> None:
        say(f"skipped: {error}")
        advance()

    answers, drawn = [], list[Prediction]()
    with bar:
        for prediction in predictor.predict(files, args.top, skip):
            if args.json != STDOUT:
                with may_be_gone(sys.stdout) if json_file else nullcontext():  # the file will hold what a lost console doesn't
                    bar.say(text(prediction), sys.stdout)
            answers.append({"file": str(prediction.file), "top": prediction.top, "protocol": predictor.protocol})
            drawn += [prediction] if args.figure and len(drawn) < PICTURES else []
            advance()
    if predictor.diverged:
        say(f"left out, because they diverged in training: {', '.join(sorted(predictor.diverged))}")
    content = json.dumps(plain(answers), indent=2)
    if json_file:
        with replacing(json_file) as file:
            file.write_text(content + "\n")
    if drawn:
        with writing(args.figure), any_script():
            figure(drawn).savefig(args.figure)
        if len(answers) > PICTURES:
            say(f"{args.figure} shows the first {PICTURES} of {len(answers)} pictures")
    if args.json == STDOUT:
        print(content)
    return int(len(answers) < len(files))


if __name__ == "__main__":
    run_cli(main)
