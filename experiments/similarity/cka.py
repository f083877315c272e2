"""How alike two layers are: linear CKA (Kornblith et al., 2019), debiased, from minibatches (Nguyen et al., 2021, equations 2 and 3).

    similarity = MinibatchCKA()
    for batch in batches:
        similarity.add([gram(batch["conv1"]), gram(batch["fc7"])])
    similarity.value()    # (2, 2): 1 on the diagonal

CKA is 1 where one layer is the other up to a rotation and a scale, and about 0 where they have nothing in common. Debiased, it is 0 on
average for independent layers, even of many more units than examples; so it may be a little negative.
"""

from collections.abc import Sequence

import numpy as np

LEAST = 4  # examples in a batch
ROUNDING = 1e-9  # HSIC of a layer with itself below so much of its Gram matrix's mean square is the rounding of float32


def gram(x: np.ndarray) -> np.ndarray:
    """Inner products (n, n) of the examples of a batch (n, ...). Their mean is subtracted first: HSIC is the same, and digits are kept."""
    flat = x.reshape(len(x), -1)
    flat = flat - flat.mean(0)
    return (flat @ flat.T).astype(np.float64)


def centred(grams: Sequence[np.ndarray]) -> np.ndarray:
    """Gram matrices (n, n) of one batch, U-centred (Szekely and Rizzo, 2014, definition 2): (L, n, n). Diagonals and row sums are 0."""
    n = len(grams[0])
    if n < LEAST:
        raise ValueError(f"a batch of {n} examples; HSIC needs at least {LEAST}")
    off = np.stack(grams) * (1 - np.eye(n))
    rows = off.sum(2) / (n - 2)
    found = off - rows[:, :, None] - rows[:, None] + off.sum((1, 2))[:, None, None] / ((n - 1) * (n - 2))
    return found * (1 - np.eye(n))


def hsic(grams: Sequence[np.ndarray]) -> np.ndarray:
    """The unbiased estimator of HSIC (Song et al., 2012, equation 5) of each pair of L Gram matrices (n, n) of one batch: (L, L).

    It is the inner product of the U-centred matrices over n (n - 3). Song's own formula subtracts sums that nearly cancel where few
    examples differ, and then leaves CKA's range of -1 to 1.
    """
    n, flat = len(grams[0]), centred(grams).reshape(len(grams), -1)
    return flat @ flat.T / (n * (n - 3))


class MinibatchCKA:
    """CKA of each pair of L layers from the mean of HSIC over minibatches. Only the sums are kept."""

    def __init__(self) -> None:
        self._total: np.ndarray | float = 0.0
        self._size: np.ndarray | float = 0.0  # of the Gram matrices: what rounding is relative to

    def add(self, grams: Sequence[np.ndarray]) -> None:
        """Add a batch: the Gram matrices (n, n) of the L layers, always in one order."""
        self._total = self._total + hsic(grams)
        self._size = self._size + np.square(grams).mean((1, 2))

    def value(self) -> np.ndarray:
        """CKA (L, L), between -1 and 1; NaN for a layer that is the same for all examples of a batch, or for all but one."""
        own = np.diag(self._total)
        known = np.where(own > ROUNDING * self._size, own, np.nan)
        return self._total / np.sqrt(np.outer(known, known))
