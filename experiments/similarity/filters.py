"""The filters of two first layers, matched one to one so that the sum of their cosines is the largest.

compare.py calls it for each pair of networks:

    matching = match(kernels_of_one, kernels_of_another)
    matching.cosine.mean()
"""

from typing import NamedTuple

import numpy as np

CHANCE_DRAWS = 20


class Matching(NamedTuple):
    """For each filter of the first network, the best matching's partner in the second."""

    partner: np.ndarray  # (filters,)
    cosine: np.ndarray  # (filters,)
    chance: float  # the mean cosine of the best matching with filters whose weights are shuffled


def match(one: np.ndarray, other: np.ndarray) -> Matching:
    """Match kernels (size, size, channels, filters) of one shape. Chance is the same for every call."""
    rng = np.random.default_rng(0)
    partner, cosine = _assign(one, other)
    flat = other.reshape(-1, other.shape[-1])
    chance = [_assign(one, rng.permuted(flat, axis=0))[1].mean() for _ in range(CHANCE_DRAWS)]
    return Matching(partner, cosine, float(np.mean(chance)))


def _assign(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from scipy.optimize import linear_sum_assignment

    a, b = (_unit(kernels.reshape(-1, kernels.shape[-1])) for kernels in (one, other))
    cosines = a.T @ b
    rows, partner = linear_sum_assignment(-cosines)
    return partner, cosines[rows, partner]


def _unit(columns: np.ndarray) -> np.ndarray:
    return columns / np.maximum(np.linalg.norm(columns, axis=0), np.finfo(np.float32).tiny)
