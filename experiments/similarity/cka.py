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


def gram(x: np.ndarray) -> np.ndarray:
    """Inner products (n, n) of the examples of a batch (n, ...). Their mean is subtracted first: HSIC is the same, and digits are kept."""
    flat = x.reshape(len(x), -1)
    flat = flat - flat.mean(0)
    return (flat @ flat.T).astype(np.float64)


def hsic(grams: Sequence[np.ndarray]) -> np.ndarray:
    """The unbiased estimator of HSIC (Song et al., 2012, equation 5) of each pair of L Gram matrices (n, n) of one batch: (L, L).

    With diagonals of 0: (tr(KL) + 1'K1 1'L1 / ((n - 1)(n - 2)) - 2 / (n - 2) 1'KL1) / (n (n - 3)).
    """
    n = len(grams[0])
    if n < LEAST:
        raise ValueError(f"a batch of {n} examples; HSIC needs at least {LEAST}")
    off = np.stack(grams) * (1 - np.eye(n))
    flat, rows, sums = off.reshape(len(off), -1), off.sum(2), off.sum((1, 2))
    return (flat @ flat.T + np.outer(sums, sums) / ((n - 1) * (n - 2)) - 2 / (n - 2) * rows @ rows.T) / (n * (n - 3))


class MinibatchCKA:
    """CKA of each pair of L layers from the mean of HSIC over minibatches. Only the sums are kept."""

    def __init__(self) -> None:
        self._total: np.ndarray | float = 0.0

    def add(self, grams: Sequence[np.ndarray]) -> None:
        """Add a batch: the Gram matrices (n, n) of the L layers, always in one order."""
        self._total = self._total + hsic(grams)

    def value(self) -> np.ndarray:
        """CKA (L, L); NaN for a layer that is the same for all examples."""
        own = np.diag(self._total)
        with np.errstate(invalid="ignore", divide="ignore"):
            return self._total / np.sqrt(np.outer(own, own))
