"""Caffe's `.caffemodel` files: the few protobuf messages and fields that weights need, by the numbers they have in BVLC's caffe.proto.

Two forms are about. The old one, as in the files that BVLC trained in 2014, has `layers` whose blobs are four-dimensional: a bias is
(1, 1, 1, n), a dense kernel (1, 1, out, in). The new one has `layer` and blobs with a `shape`.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.errors import UserError

# Message -> field -> number and type; * repeats. A parser skips the fields that aren't here.
_MESSAGES = {
    "Shape": {"dim": (1, "int64*")},
    "Blob": {
        "num": (1, "int32"),
        "channels": (2, "int32"),
        "height": (3, "int32"),
        "width": (4, "int32"),
        "data": (5, "float*"),
        "shape": (7, "Shape"),
    },
    "OldLayer": {"name": (4, "string"), "type": (5, "int32"), "blobs": (6, "Blob*")},  # the type is an enum, an int32 on the wire
    "Layer": {"name": (1, "string"), "type": (2, "string"), "blobs": (7, "Blob*")},
    "Net": {"layers": (2, "OldLayer*"), "layer": (100, "Layer*")},
}
_LRN, _POOLING, _DENSE = (15, "LRN"), (17, "Pooling"), (14, "InnerProduct")  # layer types, old and new


def read(path: Path) -> tuple[str, str, dict[str, np.ndarray]]:
    """The blobs of a caffemodel, and its `lrn_order`, in which alone bvlc_alexnet and CaffeNet differ.

    Returns:
      `after_pool` or `before_pool`; the name of the last dense layer, "" where there is none; float32 arrays by `layer.blobs[i]`, of
      kernels (out, in, height, width) or (out, in), biases (out,).

    Raises:
      UserError: not a caffemodel, a blob whose numbers don't fill its shape, or no LRN and pooling in it.
    """
    from google.protobuf.message import DecodeError

    net = _net_class()()
    try:
        net.ParseFromString(path.read_bytes())
    except DecodeError:
        raise UserError(f"{path} is not a caffemodel, or not a whole one: it can't be parsed") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    layers = [*net.layers, *net.layer]
    if not layers:
        raise UserError(f"{path} is not a caffemodel: it holds no layers")
    tensors = {f"{layer.name}.blobs[{i}]": _array(path, layer, i, blob) for layer in layers for i, blob in enumerate(layer.blobs)}
    last = next((layer.name for layer in reversed(layers) if layer.type in _DENSE and layer.blobs), "")
    types = [layer.type for layer in layers]
    lrn, pool = (next((place for place, kind in enumerate(types) if kind in names), None) for names in (_LRN, _POOLING))
    if lrn is None or pool is None:
        raise UserError(f"{path} has no LRN and pooling layers: it is neither bvlc_alexnet nor CaffeNet")
    return "before_pool" if lrn < pool else "after_pool", last, tensors


def _array(path: Path, layer: Any, index: int, blob: Any) -> np.ndarray:
    if blob.HasField("shape"):
        shape = tuple(blob.shape.dim)
    else:
        shape = (blob.num, blob.channels, blob.height, blob.width)
        leading = 3 if index else 2 if layer.type in _DENSE else 0  # ones before a bias, a dense kernel, a convolution's
        if set(shape[:leading]) <= {1}:
            shape = shape[leading:]
    if len(blob.data) != math.prod(shape):
        raise UserError(
            f"{path}: {layer.name}.blobs[{index}] holds {len(blob.data):,} float32 numbers, its shape {shape} takes {math.prod(shape):,}"
        )
    return np.fromiter(blob.data, np.float32, len(blob.data)).reshape(shape)


def _net_class() -> Any:
    """The class of `Net` messages, made from the table above."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="caffemodel.proto", package="caffemodel", syntax="proto2")
    for message, fields in _MESSAGES.items():
        described = file.message_type.add(name=message)
        for field, (number, kind) in fields.items():
            name = kind.rstrip("*")
            label = kinds.LABEL_REPEATED if kind.endswith("*") else kinds.LABEL_OPTIONAL
            if name in _MESSAGES:
                described.field.add(name=field, number=number, label=label, type=kinds.TYPE_MESSAGE, type_name=f".caffemodel.{name}")
            else:
                described.field.add(name=field, number=number, label=label, type=getattr(kinds, f"TYPE_{name.upper()}"))
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("caffemodel.Net"))
