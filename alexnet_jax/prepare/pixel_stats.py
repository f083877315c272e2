"""Exact statistics of many images' pixels, for mean subtraction, whitening and PCA colour."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

BLOCK = 256  # products of so many pixels add up to less than 2^24: exact in float32, which takes a third of the time of integers


@dataclass
class Moments:
    """Sums over pixels, in integers, so that they are exact whatever the order: number, per-channel sum (C,), products (C, C)."""

    count: int = 0
    total: np.ndarray = field(default_factory=lambda: np.zeros((), np.int64))
    products: np.ndarray = field(default_factory=lambda: np.zeros((), np.int64))

    @classmethod
    def of(cls, image: np.ndarray) -> "Moments":
        pixels = np.ascontiguousarray(image.reshape(-1, image.shape[-1]).T)
        channels, count = pixels.shape
        blocks = np.zeros((channels, -(-count // BLOCK), BLOCK), np.float32)
        blocks.reshape(channels, -1)[:, :count] = pixels
        # einsum and not a matrix product: as fast at this shape, and no BLAS threads in every worker.
        products = np.einsum("ibp,jbp->bij", blocks, blocks).sum(0, dtype=np.float64).astype(np.int64)
        return cls(count, pixels.sum(1, dtype=np.int64), products)

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(self.count + other.count, self.total + other.total, self.products + other.products)

    def statistics(self) -> dict[str, Any]:
        """On the 0-255 scale: mean (C,), the standard deviation of all pixels about it, and the principal axes for PCA colour.

        `pca_std` holds the square roots of the covariance's eigenvalues, descending (the 2012 code uses these; the paper's text says
        eigenvalues); row i of `pca_axes` is the unit eigenvector of `pca_std[i]`, its largest component positive.
        """
        mean = self.total / self.count
        covariance = self.products / self.count - np.outer(mean, mean)
        variances, columns = np.linalg.eigh(covariance)
        axes = columns.T[::-1]
        axes = axes * np.sign(np.take_along_axis(axes, np.abs(axes).argmax(1)[:, None], 1))
        return {
            "pixel_mean": mean.tolist(),
            "pixel_std": float(np.sqrt(np.trace(covariance) / len(mean))),
            "pca_std": np.sqrt(variances[::-1].clip(0)).tolist(),
            "pca_axes": axes.tolist(),
        }


class PixelStats(NamedTuple):
    """Statistics of a dataset's training pixels on the 0-255 scale, C channels."""

    mean: Float[np.ndarray, " channels"]
    std: Float[np.ndarray, ""]  # of all pixels about their channel's mean
    pca_std: Float[np.ndarray, " channels"]  # standard deviations along the principal axes of colour
    pca_axes: Float[np.ndarray, "axes channels"]  # unit vectors
