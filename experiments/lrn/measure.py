"""LRN's divisors in the networks of a run: how much they vary, and which filters inhibit which.

    for layer in measure(subject, dataset.source("test")):
        layer.share(0.05)    # (M,): of the active units, the share that LRN changes by more than 5 %

LRN divides a unit by (k + c * sum)^beta. At sum = 0 this is k^beta, one number for all units, which the next layer's weights can undo. So
what LRN does is the deviation from it: the unit keeps (k / (k + c * sum))^beta of what the constant would leave it.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax import data, parallel, turns
from alexnet_jax.augment import evaluation_view
from alexnet_jax.errors import UserError
from alexnet_jax.examples import Examples
from alexnet_jax.model.lrn import neighbour_weight
from alexnet_jax.subject import Subject

MARKS = (0.01, 0.05, 0.2)  # changes whose shares are shown as numbers
# Of the bins of the change: 0 to 1e-5, then twenty a decade up to 1, and the marks, so that their shares are exact.
EDGES = np.unique(np.concatenate([[0], np.logspace(-5, 0, 101).round(8), MARKS]))


class Layer(NamedTuple):
    """What LRN does after one layer, in M networks, counted over the active (nonzero) units of all images."""

    name: str
    counts: np.ndarray  # (M, bins of EDGES): units by how much of them LRN takes away
    inhibition: np.ndarray  # (M, F, F): of filter i's divisor, the share that comes from filter j; the mean over i's active units

    def share(self, change: float) -> np.ndarray:
        """The share (M,) of the units that LRN changes by more than `change`, a fraction. It is exact at the bins' edges."""
        above = np.searchsorted(EDGES, change * (1 - 1e-9))
        return self.counts[:, above:].sum(1) / np.maximum(self.counts.sum(1), 1)

    def median(self) -> np.ndarray:
        """The median change (M,), as the upper edge of its bin."""
        shares = np.cumsum(self.counts, 1) / np.maximum(self.counts.sum(1, keepdims=True), 1)
        return EDGES[1:][(shares >= 0.5).argmax(1)]


def measure(subject: Subject, source: Examples) -> list[Layer]:
    """Both LRN layers on a split.

    Raises:
      UserError: the network has no LRN.
    """
    model, stats = subject.model, subject.run.stats
    arch = model.arch
    if not arch.lrn:
        raise UserError(f"{subject.run.workdir} has no LRN (model.lrn is off): there is nothing to measure")
    below, above = arch.lrn_size // 2, (arch.lrn_size - 1) // 2

    def of_member(params: Any, hyper: Any, images: jax.Array) -> list[dict[str, jax.Array]]:
        views = jax.vmap(lambda image: evaluation_view(image, hyper, stats, arch.input_size))(images)
        _, kept = model.apply({"params": params}, views, hyper, mutable=["intermediates"])
        weight = neighbour_weight(arch.lrn_alpha(hyper), arch.lrn_size, arch.lrn_convention)
        return [one(x, hyper, weight) for x, _ in kept["intermediates"]["lrn"]]

    def one(x: jax.Array, hyper: Any, weight: jax.Array) -> dict[str, jax.Array]:
        x = x.reshape(x.shape[0], -1, x.shape[-1]).astype(jnp.float32)  # (B, places, F)
        padded = jnp.pad(weight * x * x, [(0, 0), (0, 0), (below, above)])
        near = [padded[..., offset : offset + x.shape[-1]] for offset in range(arch.lrn_size)]
        divisor = hyper.lrn_k + sum(near)
        active = x != 0
        change = 1 - (hyper.lrn_k / divisor) ** hyper.lrn_beta
        # One row for each image, so that the padding of the last batch can be removed.
        bins = jnp.clip(jnp.searchsorted(jnp.asarray(EDGES, jnp.float32), change, side="left") - 1, 0, len(EDGES) - 2)
        counts = jax.vmap(lambda bins, active: jnp.bincount(bins.ravel(), active.ravel(), length=len(EDGES) - 1))(
            bins, active.astype(jnp.float32)
        )
        shares = jnp.stack([jnp.where(active, each / divisor, 0).sum(1) for each in near], -1)
        return {"counts": counts, "active": active.sum(1), "shares": shares}

    batch_size = parallel.even(min(subject.run.config.eval.batch_size, len(source)))
    in_turn = turns.plan(len(subject.members), subject.run.config.train.members_per_program)
    networks = [turns.place(tree, in_turn) for tree in (subject.params, subject.hyper)]
    program = turns.predictor(jax.vmap(of_member, in_axes=(0, 0, None)), in_turn, *networks)
    totals: list[dict[str, np.ndarray]] = []
    for batch in data.eval_batches(source, batch_size=batch_size, threads=subject.run.config.data.threads):
        found = jax.tree.map(lambda leaf, mask=batch["mask"]: leaf[:, mask].sum(1, dtype=np.float64), program(batch["image"]))
        totals = found if not totals else jax.tree.map(np.add, totals, found)
    return [Layer(f"norm{i + 1}", total["counts"], _matrix(total, below)) for i, total in enumerate(totals)]


def _matrix(total: dict[str, np.ndarray], below: int) -> np.ndarray:
    """The sums of shares (M, F, offsets) as means in a matrix (M, F, F)."""
    members, filters, offsets = total["shares"].shape
    means = total["shares"] / np.maximum(total["active"], 1)[..., None]
    matrix = np.zeros((members, filters, filters))
    for offset in range(offsets):
        i = np.arange(max(0, below - offset), min(filters, filters + below - offset))
        matrix[:, i, i + offset - below] = means[:, i, offset]
    return matrix
