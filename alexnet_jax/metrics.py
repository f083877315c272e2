"""What counts as an error; for arrays of JAX on the device and of numpy on the host alike."""

from typing import Any


def is_error(scores: Any, labels: Any, k: int) -> Any:
    """Whether the label is not among the k best scores: (..., N, classes), (N,) -> bool (..., N).

    The label's rank counts the classes that score higher, and, among equal scores, those before it, so that a network that says the same
    of all classes gets credit for one class and not for all. NaN is an error.
    """
    xp = scores.__array_namespace__()
    index = xp.broadcast_to(labels, scores.shape[:-1])[..., None]
    at_label = xp.take_along_axis(scores, index, axis=-1)
    before = xp.arange(scores.shape[-1]) < labels[:, None]
    rank = xp.sum((scores > at_label) | ((scores == at_label) & before), axis=-1)
    return (rank >= k) | xp.isnan(at_label[..., 0])
