"""How differently networks answer, and what that gains: for each pair of networks, from their log-probabilities.

compare.py calls it:

    found = pairs(labels, log_probs)    # (N,), (M, N, classes)
    found.gain[0, 1]                    # by how much the two together err less than each alone, on average
"""

from typing import NamedTuple

import numpy as np

from alexnet_jax.metrics import average, top_k_error


class Pairs(NamedTuple):
    """Symmetric matrices (M, M); the diagonals are NaN."""

    disagreement: np.ndarray  # the fraction of examples with different answers
    q: np.ndarray  # Yule's Q of being right: 1 errs on the same examples, 0 independently (Kuncheva and Whitaker, 2003); NaN without errors
    kl: np.ndarray  # nats: the mean Kullback-Leibler divergence, of both directions
    gain: np.ndarray  # the mean error of the two, minus the error of their mean probability


def pairs(labels: np.ndarray, log_probs: np.ndarray) -> Pairs:
    """Compare each pair of M networks on N examples."""
    members = len(log_probs)
    answers = log_probs.argmax(-1)
    right, errors = answers == labels, [top_k_error(labels, one, 1) for one in log_probs]
    found = Pairs(*(np.full((members, members), np.nan) for _ in Pairs._fields))
    for i in range(members):
        for j in range(i + 1, members):
            both, neither = (right[i] & right[j]).sum(), (~right[i] & ~right[j]).sum()
            first, second = (right[i] & ~right[j]).sum(), (~right[i] & right[j]).sum()
            together, apart = float(both * neither), float(first * second)
            difference = log_probs[i].astype(np.float64) - log_probs[j]
            values = (
                (answers[i] != answers[j]).mean(),
                (together - apart) / (together + apart) if together + apart else np.nan,
                0.5 * ((np.exp(log_probs[i]) - np.exp(log_probs[j])) * difference).sum(-1).mean(),
                (errors[i] + errors[j]) / 2 - top_k_error(labels, average(log_probs[[i, j]]), 1),
            )
            for matrix, value in zip(found, values, strict=True):
                matrix[i, j] = matrix[j, i] = value
    return found
