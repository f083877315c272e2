"""How far the two forms of resampling (alexnet_jax/resample.py) lie apart on photographs, in grey levels, and how that looks.

    python -m experiments.resampling --out resampling
    python -m experiments.resampling --out resampling --degrees 5 photo.jpg

Each picture's centre crop is turned by both forms. Without pictures these are scikit-learn's two photographs, resized as for training, and
a cut of the first at its full sharpness. In the folder:

    resampling.png, resampling.svg    crop, both forms, and their difference, at --degrees: the pictures that differ least and most
    result.txt                        what is printed: the mean distance at some angles
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from alexnet_jax import config as config_lib
from alexnet_jax.errors import UserError, run_cli
from alexnet_jax.tables import aligned

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STORED, SIZE = 256, 227  # pixels of a side, as for ImageNet
ANGLES = (0.0, 1.0, 3.0, 10.0, 20.0, 30.0)
STRONGER = 8  # the factor by which the figure shows the difference


def pictures(files: list[Path]) -> dict[str, np.ndarray]:
    """Images uint8 (STORED, STORED, 3) by name: of the files, or scikit-learn's photographs."""
    from sklearn.datasets import load_sample_images

    from alexnet_jax.images import Resize, load_resized

    if files:
        return {file.name: load_resized(file, Resize(STORED)) for file in files}
    temple, flower = load_sample_images().images
    sharp = temple[80 : 80 + STORED, 100 : 100 + STORED]
    return {"temple": Resize(STORED)(temple), "flower": Resize(STORED)(flower), "temple, sharp": sharp}


def turn(images: np.ndarray, degrees: float, largest: float) -> tuple[np.ndarray, np.ndarray]:
    """The centre crops of images (N, STORED, STORED, 3), turned by `gather` and by `shear`: two of float32 (N, SIZE, SIZE, 3)."""
    import jax
    import jax.numpy as jnp

    from alexnet_jax.resample import Place, gather, shear

    margin = jnp.float32((STORED - SIZE) // 2)
    place = Place(margin, margin, jnp.deg2rad(jnp.float32(degrees)), jnp.float32(1))
    both = jax.jit(jax.vmap(lambda image: (gather(image, place, SIZE), shear(image, place, SIZE, largest))))
    gathered, sheared = both(images)
    return np.asarray(gathered), np.asarray(sheared)


def draw(names: list[str], crops: np.ndarray, gathered: np.ndarray, sheared: np.ndarray, degrees: float) -> "Figure":
    """A row for each picture: crop, gather, shear, difference."""
    from matplotlib.figure import Figure

    from alexnet_jax.report.style import INK, WIDTH

    difference = np.clip(128 + STRONGER * (sheared - gathered), 0, 255)
    columns = {"crop": crops, f"gather, {degrees:g} degrees": gathered, "shear": sheared, f"difference x {STRONGER}": difference}
    figure = Figure(figsize=(WIDTH, 1.62 * len(names) + 0.3), layout="constrained")
    cells = figure.subplots(len(names), len(columns), squeeze=False)
    for column, (title, images) in enumerate(columns.items()):
        cells[0, column].set_title(title, color=INK, fontsize=9)
        for row, name in enumerate(names):
            axes = cells[row, column]
            axes.imshow(np.round(images[row]).astype(np.uint8), interpolation="none")
            axes.set(xticks=[], yticks=[])
            if column == 0:
                axes.set_ylabel(name, color=INK, fontsize=9, parse_math=False)
    return figure


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m experiments.resampling", description="Compare both forms of resampling on photographs.")
    parser.add_argument("pictures", nargs="*", type=config_lib.path, metavar="FILE", help="pictures; by default scikit-learn's two")
    parser.add_argument("--degrees", type=float, default=10.0, help="the angle of the figure (default: 10)")
    parser.add_argument("--out", required=True, type=config_lib.path, metavar="DIR", help="the folder for the numbers and the figure")
    args = parser.parse_args(argv)

    from alexnet_jax import parallel
    from alexnet_jax.report.page import write_result
    from alexnet_jax.report.style import any_script
    from alexnet_jax.resample import LARGEST
    from experiments.ablate.figures import save

    if not abs(args.degrees) <= LARGEST:
        raise UserError(f"--degrees {args.degrees:g}: shear turns by at most {LARGEST:g} degrees")
    parallel.start()
    found = pictures(args.pictures)
    names, images = list(found), np.stack(list(found.values()))
    rows: list[tuple[str, ...]] = [("degrees", *names)]
    for degrees in ANGLES:
        gathered, sheared = turn(images, degrees, LARGEST)
        rows.append((f"{degrees:g}", *(f"{distance:.2f}" for distance in np.abs(gathered - sheared).mean((1, 2, 3)))))
    text = f"mean distance between gather and shear, in grey levels of 0 to 255\n{aligned(rows, '>')}"
    gathered, sheared = turn(images, args.degrees, LARGEST)
    order = np.abs(gathered - sheared).mean((1, 2, 3)).argsort()
    shown = list(dict.fromkeys([int(order[0]), int(order[-1])]))
    crops, _ = turn(images[shown], 0.0, 0.0)
    figure = draw([names[i] for i in shown], crops, gathered[shown], sheared[shown], args.degrees)
    with any_script():
        save(figure, args.out / "resampling")
    write_result(args.out, text)
    print(text)
    print(f"written to {args.out}")


if __name__ == "__main__":
    run_cli(main)
