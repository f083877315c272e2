"""An ILSVRC-2012 in miniature, in each form in which people have it: a few classes, small photographs, and its odd files.

    python -m tests.mini_imagenet DIR [tars|folders|flat|kaggle|tiny]    then: python -m alexnet_jax.prepare imagenet --source DIR ...

Among the first class's train images one is CMYK, one grey, one a PNG that is named .JPEG, one a PNG with too large a text, and, unless
`corrupt=False`, one cut off.
"""

import gzip
import io
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

CLASSES = {  # WordNet id -> (ILSVRC2012_ID, words); the ids are in another order than the WordNet ids, as in the devkit
    "n02012849": (3, "crane"),
    "n02119789": (1, "kit fox, Vulpes macrotis"),
    "n03126707": (2, "crane"),
}
PARENT = "n00001740"


def photograph(label: int, number: int, width: int = 120, height: int = 90) -> np.ndarray:
    """A picture of its class's colour, with some texture: uint8 (height, width, 3)."""
    rng = np.random.default_rng((label, number))
    coarse = rng.integers(0, 80, (height // 10 + 1, width // 10 + 1, 3)).repeat(10, 0).repeat(10, 1)[:height, :width]
    return (coarse + 150 * np.eye(3, dtype=int)[label]).astype(np.uint8)


def encode(image: Image.Image, kind: str = "jpeg", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pictures(train: int, validation: int, corrupt: bool) -> tuple[dict[str, dict[str, bytes]], list[tuple[str, bytes]]]:
    """WordNet id -> name -> file of the train images, and (WordNet id, file) of the validation images 1, 2, ..."""
    images = {
        wnid: {f"{wnid}_{i}.JPEG": encode(Image.fromarray(photograph(label, i)), quality=92) for i in range(train)}
        for label, wnid in enumerate(CLASSES)
    }
    first = next(iter(CLASSES))
    large = PngImagePlugin.PngInfo()
    large.add_text("Comment", "x" * 3_000_000, zip=True)
    odd = [Image.fromarray(photograph(0, i)) for i in range(5)]
    images[first] |= {
        f"{first}_0.JPEG": encode(odd[0].convert("CMYK")),
        f"{first}_1.JPEG": encode(odd[1].convert("L")),
        f"{first}_2.JPEG": encode(odd[2], "png"),
        f"{first}_3.JPEG": encode(odd[3], "png", pnginfo=large),
        **({f"{first}_4.JPEG": encode(odd[4])[:700]} if corrupt else {}),
    }
    order = np.random.default_rng(0).permutation(np.arange(validation) % len(CLASSES)).tolist()
    wnids = list(CLASSES)
    return images, [(wnids[label], encode(Image.fromarray(photograph(label, 1000 + i)))) for i, label in enumerate(order)]


def tar_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def devkit(validation: list[tuple[str, bytes]], train: int) -> bytes:
    """ILSVRC2012_devkit_t12.tar, with a synset that has children among the classes."""
    from scipy.io import savemat

    rows = [(number, wnid, words, "a gloss", 0, np.zeros(0), 0, train) for wnid, (number, words) in CLASSES.items()]
    rows.append((len(rows) + 1, PARENT, "entity", "a gloss", 3, np.array([1, 2, 3]), 2, 0))
    fields = "ILSVRC2012_ID WNID words gloss num_children children wordnet_height num_train_images"
    kinds = [(field, object) for field in fields.split()]
    meta = io.BytesIO()
    savemat(meta, {"synsets": np.array(sorted(rows, key=lambda row: row[0]), kinds)[:, None]})
    truth = "".join(f"{CLASSES[wnid][0]}\n" for wnid, _ in validation)
    top = "ILSVRC2012_devkit_t12"
    return tar_of({f"{top}/data/meta.mat": meta.getvalue(), f"{top}/data/ILSVRC2012_validation_ground_truth.txt": truth.encode()})


def make(folder: Path, form: str = "tars", train: int = 8, validation: int = 6, corrupt: bool = True) -> Path:
    """`form`: tars; folders, with classes in val too; flat, val as its tar holds it; kaggle; tiny. Returns `folder`."""
    images, held_out = pictures(train, validation, corrupt)
    flat = {f"ILSVRC2012_val_{i:08d}.JPEG": content for i, (_, content) in enumerate(held_out, 1)}
    files: dict[str, bytes] = {}
    if form == "tars":
        files["ILSVRC2012_img_train.tar"] = tar_of({f"{wnid}.tar": tar_of(inside) for wnid, inside in images.items()})
        files["ILSVRC2012_img_val.tar"] = tar_of(flat)
    if form in ("tars", "flat"):
        files["ILSVRC2012_devkit_t12.tar.gz"] = gzip.compress(devkit(held_out, train))
    if form in ("folders", "flat"):
        files |= {f"train/{wnid}/{name}": content for wnid, inside in images.items() for name, content in inside.items()}
    if form == "folders":
        files |= {f"val/{wnid}/{name}": content for (wnid, content), name in zip(held_out, flat, strict=True)}
    if form == "flat":
        files |= {f"val/{name}": content for name, content in flat.items()}
    if form == "kaggle":
        top = "ILSVRC/Data/CLS-LOC"
        files |= {f"{top}/train/{wnid}/{name}": content for wnid, inside in images.items() for name, content in inside.items()}
        files |= {f"{top}/val/{name}": content for name, content in flat.items()}
        files[f"{top}/test/ILSVRC2012_test_00000001.JPEG"] = b""
        rows = [f"{name[:-5]},{wnid} 1 2 3 4 " for (wnid, _), name in zip(held_out, flat, strict=True)]
        files["LOC_val_solution.csv"] = "\n".join(["ImageId,PredictionString", *reversed(rows)]).encode()
        files["LOC_synset_mapping.txt"] = "".join(f"{wnid} {words}\n" for wnid, (_, words) in CLASSES.items()).encode()
    if form == "tiny":
        files |= {f"train/{wnid}/images/{name}": content for wnid, inside in images.items() for name, content in inside.items()}
        files |= {f"train/{wnid}/{wnid}_boxes.txt": b"box" for wnid in images}
        files |= {f"val/images/val_{i}.JPEG": content for i, (_, content) in enumerate(held_out)}
        rows = [f"val_{i}.JPEG\t{wnid}\t0\t0\t9\t9\n" for i, (wnid, _) in enumerate(held_out)]
        files["val/val_annotations.txt"] = "".join(rows).encode()
        files["test/images/test_0.JPEG"] = b""
        files["words.txt"] = "".join(f"{wnid}\t{words}\n" for wnid, (_, words) in [(PARENT, (0, "entity")), *CLASSES.items()]).encode()
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


if __name__ == "__main__":
    print(make(Path(sys.argv[1]), *sys.argv[2:3]))
