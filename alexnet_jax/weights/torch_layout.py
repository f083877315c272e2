"""The layout in which PyTorch and Caffe keep parameters <-> this project's.

|          | there | here |
|---|---|---|
| convolution | (out, in / groups, height, width) | (height, width, in / groups, out) |
| dense | (out, in) | (in, out) |
| what fc6 sees | maps flattened as channel, row, column | row, column, channel |

Kernels are flipped nowhere: all compute cross-correlations. Nothing here computes a number: there and back is the identity.
"""

from collections.abc import Mapping

import numpy as np

Params = dict[str, dict[str, np.ndarray]]  # {layer: {kernel, bias}} of one network, float32
Tensors = Mapping[str, np.ndarray]  # by their names in a file
Names = Mapping[tuple[str, str], str]  # (layer, leaf) -> the tensor's name in a file

LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")


def to_oihw(params: Params, names: Names, map_size: int) -> dict[str, np.ndarray]:
    """Tensors in the layout of PyTorch and Caffe. `map_size` is the height and width of the maps that fc6 sees."""
    return {name: np.ascontiguousarray(_to_oihw(layer, params[layer][leaf], map_size)) for (layer, leaf), name in names.items()}


def from_oihw(tensors: Tensors, names: Names, map_size: int) -> Params:
    """Parameters from tensors in the layout of PyTorch and Caffe."""
    params: Params = {layer: {} for layer in LAYERS}
    for (layer, leaf), name in names.items():
        params[layer][leaf] = np.ascontiguousarray(_from_oihw(layer, tensors[name], map_size))
    return params


def oihw_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that a parameter of this project has there."""
    return tuple(shape[axis] for axis in (3, 2, 0, 1)) if len(shape) == 4 else shape[::-1]


def ungroup(kernel: np.ndarray, groups: int) -> np.ndarray:
    """A grouped kernel (size, size, in / groups, out) as the full one (size, size, in, out) that computes the same: zero between groups."""
    height, width, inputs, outputs = kernel.shape
    full = np.zeros((height, width, inputs * groups, outputs), kernel.dtype)
    for group in range(groups):
        mine = slice(group * outputs // groups, (group + 1) * outputs // groups)
        full[:, :, group * inputs : (group + 1) * inputs, mine] = kernel[..., mine]
    return full


def _to_oihw(layer: str, array: np.ndarray, map_size: int) -> np.ndarray:
    if array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    if array.ndim == 2 and layer == "fc6":
        units = array.shape[1]
        return array.reshape(map_size, map_size, -1, units).transpose(3, 2, 0, 1).reshape(units, -1)
    return array.T


def _from_oihw(layer: str, array: np.ndarray, map_size: int) -> np.ndarray:
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    if array.ndim == 2 and layer == "fc6":
        units = array.shape[0]
        return array.reshape(units, -1, map_size, map_size).transpose(2, 3, 1, 0).reshape(-1, units)
    return array.T
