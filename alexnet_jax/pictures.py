"""Finds the pictures that a person names on the command line: files, and folders with pictures in them.

`predict` and `explain` read them with `images.load_resized`, in the form of the run's dataset:

    for file in find_images([Path("photo.jpg"), Path("scans/")]):
        image = load_resized(file, data.resize_of(record["dataset"]), channels=3)
"""

import itertools
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from alexnet_jax.errors import UserError
from alexnet_jax.images import shown
from alexnet_jax.prepare.folders import find_pictures


def find_images(paths: Iterable[Path]) -> list[Path]:
    """The files among `paths`, and the pictures below the folders among them, sorted in each. Other files there are counted on stderr.

    Raises:
      UserError: a folder holds no image, or there are no paths.
    """
    files = []
    for path in paths:
        if not os.path.isdir(path):  # unlike Path.is_dir, it returns False without permission
            files.append(path)  # a file with any extension: its contents decide
            continue
        found = find_pictures(path)
        for reason, left_out in itertools.groupby(sorted(found.left_out), key=lambda one: one.reason):
            names = [one.what for one in left_out]
            print(
                f"left out of {shown(path)}: {len(names):,} {reason}: {', '.join(names[:3])}{', ...' * (len(names) > 3)}", file=sys.stderr
            )
        if not found.images:
            raise UserError(f"the folder {shown(path)} holds no image")
        files += map(Path, found.images)
    if not files:
        raise UserError("no images; give files or folders")
    return files
