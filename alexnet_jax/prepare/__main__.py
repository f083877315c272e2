"""Raw images -> a TFDS dataset of fixed-size uint8 images, in array_record files that need no TensorFlow to read.

    python -m alexnet_jax.prepare digits                                     scikit-learn's digits: nothing to download
    python -m alexnet_jax.prepare idx    --source DIR --name fashion_mnist   the IDX files of the MNIST family
    python -m alexnet_jax.prepare folder --source DIR --name pets            DIR/train/CLASS/*.jpg, and perhaps DIR/val/CLASS/*.jpg
    python -m alexnet_jax.prepare imagenet --source DIR --name imagenet      ILSVRC-2012's tars or folders, Kaggle's, Tiny ImageNet's
    python -m alexnet_jax.prepare tfds   --name cifar10                      any TFDS dataset of labelled images

The result is DATA_DIR/NAME/1.0.0 with the splits `train`, `validation` and, where the source has one, `test`; `tfds.builder_from_directory`
opens it. Its metadata holds the statistics of the training pixels that mean subtraction and PCA colour need.
"""

import argparse
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from alexnet_jax.config import path, positive
from alexnet_jax.errors import run_cli
from alexnet_jax.images import HOW, INTERPOLATIONS
from alexnet_jax.prepare.datasets import dataset_dir, prepare_digits, prepare_folder, prepare_idx, prepare_imagenet, prepare_tfds
from alexnet_jax.prepare.records import LEFT_OUT_LIST
from alexnet_jax.prepare.shards import refuse_existing


def main(argv: list[str] | None = None) -> None:
    options = vars(_parser().parse_args(argv))
    command = options.pop("command")
    if command == "digits":  # prepare_digits takes what is there
        refuse_existing(dataset_dir(options["data_dir"], "digits"), options["overwrite"])
    prepare: dict[str, Callable[..., Path]] = {
        "digits": prepare_digits,
        "idx": prepare_idx,
        "folder": prepare_folder,
        "imagenet": prepare_imagenet,
        "tfds": prepare_tfds,
    }
    print(_summary(prepare[command](**options)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m alexnet_jax.prepare", description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    digits = commands.add_parser("digits", help="scikit-learn's digits: nothing to download")
    idx = commands.add_parser("idx", help="the IDX files of the MNIST family, packed or unpacked")
    folder = commands.add_parser("folder", help="images in train/CLASS/, optionally val/CLASS/ and test/CLASS/")
    imagenet = commands.add_parser("imagenet", help="ILSVRC-2012 as it is downloaded, or as Kaggle packs it; Tiny ImageNet")
    tfds = commands.add_parser("tfds", help="any TFDS dataset of labelled images; most need TensorFlow to be built")
    idx.add_argument(
        "--source", type=path, required=True, help="directory of {train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz] or their like"
    )
    folder.add_argument("--source", type=path, required=True, help="directory that holds train/, and perhaps val/ and test/")
    imagenet.add_argument(
        "--source", type=path, required=True, help="directory of ILSVRC2012_img_{train,val}.tar and the devkit, or of train/, val/"
    )
    tfds.add_argument(
        "--source", type=path, help="where TFDS keeps its data (default ~/tensorflow_datasets), or the directory of one finished dataset"
    )
    idx.add_argument("--name", required=True, help="of the dataset; fashion_mnist and kmnist have class names")
    for command in (folder, imagenet):
        command.add_argument("--name", required=True, help="of the dataset")
        command.add_argument("--size", type=positive, default=256, help="pixels (default 256)")
    tfds.add_argument("--name", required=True, help="of the TFDS dataset, such as cifar10 or imagenet_resized/64x64")
    digits.add_argument("--size", type=positive, default=28, help="pixels (default 28)")
    idx.add_argument("--size", type=positive, help="pixels (default: as they are)")
    tfds.add_argument("--size", type=positive, help="pixels (default: as they are if all have one shape, else 256)")
    imagenet.add_argument("--allow-incomplete", action="store_true", help="take less than the whole release")
    imagenet.add_argument("--verify", action="store_true", help="check the tars' MD5 sums first")
    amount = "of train to hold out where there is no validation split: a count or a fraction"
    for command in (idx, tfds):
        command.add_argument("--validation", type=_amount, default=5000, help=f"{amount} (default 5000)")
    folder.add_argument("--validation", type=_amount, help=f"{amount} (default 0.1)")
    for command in (idx, folder, imagenet, tfds):
        command.add_argument("--resize", choices=HOW, default=HOW[0], help=f"the paper's way, or Caffe's (default {HOW[0]})")
        command.add_argument("--interpolation", choices=INTERPOLATIONS, default=INTERPOLATIONS[0], help=f"(default {INTERPOLATIONS[0]})")
    for command in (folder, imagenet, tfds):
        command.add_argument(
            "--encoding", choices=("raw", "jpeg", "png"), help="of the stored images (default: raw up to 64 pixels, else jpeg)"
        )
        command.add_argument("--workers", type=positive, help="processes (default: one for each core)")
        command.add_argument("--skip-corrupt", action="store_true", help=f"leave broken images out and list them in {LEFT_OUT_LIST}")
    for command in (digits, idx, folder, imagenet, tfds):
        command.add_argument("--data-dir", type=path, default=Path("data"), help="where datasets lie (default data)")
        command.add_argument("--overwrite", action="store_true", help="replace an existing dataset of that name")
    return parser


def _amount(text: str) -> int | float:
    try:
        amount = int(text) if text.isdecimal() else float(text)
    except ValueError:
        amount = 0
    if not (0 < amount < 1 or (isinstance(amount, int) and amount >= 1)):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a whole number above 0 nor a fraction such as 0.1")
    return amount


def _summary(directory: Path) -> str:
    import tensorflow_datasets as tfds

    info = tfds.builder_from_directory(directory).info
    splits = ", ".join(f"{split} {info.splits[split].num_examples:,}" for split in ("train", "validation", "test") if split in info.splits)
    height, width, channels = info.features["image"].shape
    text = f"{directory}: {splits}; {info.features['label'].num_classes} classes; {height}x{width}x{channels}, {info.dataset_size}"
    if (listed := directory / LEFT_OUT_LIST).exists():
        reasons = Counter(line.partition("\t")[0] for line in listed.read_text("utf-8").splitlines())
        text += f"\nleft out: {', '.join(f'{count:,} {reason}' for reason, count in sorted(reasons.items()))}; see {listed}"
    if (config := Path("configs", f"{info.name}.py")).exists():
        place = "" if directory.parents[1] == Path("data") else f" --config.data.dir={directory.parents[1]}"
        text += f"\nnext: python -m alexnet_jax.train --config {config} --workdir runs/{info.name}{place}"
    return text


if __name__ == "__main__":
    run_cli(main)
