"""Photographs cut into tiles: a colour dataset of natural images from any few dozen photographs, with no labels and no download.

    python -m experiments.tiles photos/ --out tiles
    python -m alexnet_jax.prepare folder --source tiles --name photographs --size 40
    python -m alexnet_jax.train --config configs/photographs.py --workdir runs/photographs

Each photograph is a class: the question is which photograph a tile was cut from (after Dosovitskiy et al., 2014, whose classes are single
images). It is no question about objects, but its first filters see the edges and colours of photographs. Tiles don't overlap, so no pixel
is in two splits. Neighbouring tiles look alike, so an error on them says nothing about other photographs. In the folder:

    train/PHOTOGRAPH/0-3.png    the tile of row 0 and column 3; also val/ and test/
"""

import argparse
import hashlib
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from alexnet_jax import config as config_lib
from alexnet_jax.errors import UserError, run_cli

MOST_ENLARGED = 2  # times
HELD_OUT = 0.1  # of each photograph's tiles, for val, and as many for test


def cut(photograph: np.ndarray, size: int, rng: np.random.Generator) -> dict[str, dict[str, np.ndarray]]:
    """The tiles of a uint8 (height, width, 3), as `{split: {"ROW-COLUMN": (size, size, 3)}}`; the rest at the right and below is cut off.

    Raises:
      UserError: the photograph gives fewer than one tile for each split.
    """
    rows, columns = (side // size for side in photograph.shape[:2])
    count, held = rows * columns, max(1, round(HELD_OUT * rows * columns))
    if count < 3:
        raise UserError(f"{photograph.shape[1]}x{photograph.shape[0]} pixels give {count} tiles of {size} pixels; at least 3 are needed")
    splits: dict[str, dict[str, np.ndarray]] = {"val": {}, "test": {}, "train": {}}
    for place, tile in enumerate(rng.permutation(count)):
        row, column = divmod(int(tile), columns)
        split = "val" if place < held else "test" if place < 2 * held else "train"
        splits[split][f"{row}-{column}"] = photograph[row * size : (row + 1) * size, column * size : (column + 1) * size]
    return splits


def scaled(pixels: np.ndarray, side: int, name: object) -> np.ndarray:
    """A uint8 (height, width, 3) whose shorter side becomes `side` pixels.

    Raises:
      UserError: it would be enlarged too much: the tiles would hold no more than a blur.
    """
    from PIL import Image

    height, width, _ = pixels.shape
    scale = side / min(height, width)
    if scale > MOST_ENLARGED:
        raise UserError(
            f"{name}: {width}x{height} pixels would be enlarged {scale:.3g} times, {MOST_ENLARGED} at most make sense; leave it out, or "
            "lower --size or --tiles"
        )
    return np.asarray(Image.fromarray(pixels).resize((round(scale * width), round(scale * height)), Image.Resampling.LANCZOS))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "python -m experiments.tiles", description="Cut photographs into tiles, a class for each photograph, for `prepare folder`."
    )
    parser.add_argument("photographs", nargs="+", type=config_lib.path, metavar="PHOTO", help="pictures, and folders of pictures")
    parser.add_argument("--size", type=config_lib.positive, default=40, metavar="PIXELS", help="of a tile (default: 40)")
    parser.add_argument("--tiles", type=config_lib.positive, default=12, metavar="N", help="in the shorter side (default: 12)")
    parser.add_argument("--seed", type=config_lib.count, default=0, help="of which tiles are held out (default: 0)")
    parser.add_argument("--out", required=True, type=config_lib.path, metavar="DIR", help="a new folder for the tiles")
    args = parser.parse_args(argv)

    from PIL import Image

    from alexnet_jax.images import load_image
    from alexnet_jax.pictures import find_images
    from alexnet_jax.prepare.folders import class_name
    from alexnet_jax.runlog import writing

    if args.out.exists():
        raise UserError(f"{args.out} exists already; remove it, or choose another --out")
    named = sorted((class_name(file.stem.lstrip("."), file.parent), file) for file in find_images(args.photographs))
    if len({name.casefold() for name, _ in named}) < len(named):
        raise UserError("two photographs have the same name; their names are their classes: rename one")
    if len(named) < 2:
        raise UserError("there is one photograph; each is a class, so at least two are needed")
    seen: dict[bytes, Path] = {}
    counts = dict.fromkeys(("train", "val", "test"), 0)
    with writing(args.out):
        args.out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{args.out.name}-", dir=args.out.parent) as beside:  # a failure leaves no part of a dataset
            made = Path(beside, args.out.name)
            for i, (name, file) in enumerate(named):
                pixels = load_image(file)
                twin = seen.setdefault(hashlib.sha256(pixels.tobytes()).digest(), file)
                if twin != file:
                    raise UserError(f"{twin} and {file} are the same picture: nothing tells these two classes apart; leave one out")
                for split, tiles in cut(
                    scaled(pixels, args.tiles * args.size, file), args.size, np.random.default_rng([args.seed, i])
                ).items():
                    folder = made / split / name
                    folder.mkdir(parents=True)
                    for place, tile in tiles.items():
                        Image.fromarray(tile).save(folder / f"{place}.png")
                    counts[split] += len(tiles)
            made.rename(args.out)
    print(f"{len(named)} photographs: {', '.join(f'{count:,} tiles in {split}' for split, count in counts.items())}, written to {args.out}")


if __name__ == "__main__":
    run_cli(main)
