"""A validation split for a source that has none: examples held out of train, stratified by class, always the same ones."""

from collections.abc import Sequence

import numpy as np

from alexnet_jax.errors import UserError
from alexnet_jax.prepare.records import SEED

SHARE = 0.1  # held out of a folder where nothing else is said


def hold_out(labels: np.ndarray, amount: int | float | None, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Split off `amount` examples, a count, a fraction below 1, or None for SHARE: ascending indices (kept, held out).

    Raises:
      UserError: a class has too few examples, or the amount is too small or too large for this number of classes.
    """
    from sklearn.model_selection import train_test_split

    examples = np.bincount(labels, minlength=len(classes))
    if alone := [classes[label] for label in np.flatnonzero(examples == 1).tolist()]:
        named = ", ".join(map(repr, alone[:3])) + ", ..." * (len(alone) > 3)
        raise UserError(
            f"cannot hold examples out for validation: {len(alone)} classes have one train example only ({named}), and one must stay; "
            "add examples to them, leave them out, or bring a validation split"
        )
    if amount is None:
        count = max(round(SHARE * len(labels)), np.count_nonzero(examples))
    else:
        count = amount if isinstance(amount, int) else round(amount * len(labels))
    try:
        kept, held_out = train_test_split(np.arange(len(labels)), test_size=count, stratify=labels, random_state=SEED)
    except ValueError as error:
        raise UserError(f"cannot hold {count} of {len(labels)} train examples out for validation ({error}); change --validation") from None
    return np.sort(kept), np.sort(held_out)
