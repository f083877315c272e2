"""Which filters of a layer are shown: some at random, or those that were named.

units.py and maximise.py call it:

    chosen("9", count=96, layer="conv1")       # 9 random ones of 96
    chosen("3,17", count=96, layer="conv1")    # these two; "3," is one
"""

import numpy as np

from alexnet_jax.errors import UserError


def chosen(filters: str, count: int, layer: str) -> np.ndarray:
    """The filters of a layer of `count`, ascending. Random ones are the same at every call.

    Raises:
      UserError: the text is neither a number nor a list, or the layer has no such filter.
    """
    words = [word.strip() for word in filters.split(",")]
    if not words[0] or not all(word.isdecimal() for word in words if word) or filters.strip() == "0":
        raise UserError(f"--filters {filters} is neither a number of filters nor a list such as 3,17 or 3,")
    if len(words) == 1:
        return np.sort(np.random.default_rng(0).choice(count, min(int(words[0]), count), replace=False))
    found = np.unique([int(word) for word in words if word])
    if found[-1] >= count:
        raise UserError(f"--filters {filters}: {layer} has {count} filters, 0 to {count - 1}")
    return found
