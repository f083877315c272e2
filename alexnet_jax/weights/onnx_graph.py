"""A network as an ONNX graph of the operators that ONNX has for it: Conv, MaxPool, LRN, Gemm.

`formats.write_onnx` writes it:

    onnx.save(graph(arch, hyper, dataset, params), "alexnet.onnx")  # uint8 (batch, height, width, channels) -> log-probabilities

The onnx package, which the ONNX project keeps, builds it layer by layer. No converter can take the JAX program itself: jax2onnx 0.17 has no
rule for the batched convolutions (`custom_vmap`) and requires orbax-checkpoint below 0.11.37, its older releases fail with JAX 0.10, and
nobody publishes one for StableHLO. So the tests compare this graph in onnxruntime with the network, for every variant.
"""

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_jax.errors import UserError
from alexnet_jax.weights import torch_layout
from alexnet_jax.weights.torch_layout import LAYERS

if TYPE_CHECKING:
    from alexnet_jax.data import Dataset
    from alexnet_jax.hyper import Hyper
    from alexnet_jax.model.architecture import Architecture
    from alexnet_jax.prepare.pixel_stats import PixelStats

OPSET, IR_VERSION = 17, 8  # of 2022: what nearly every runtime reads
_ACTIVATIONS = {"relu": "Relu", "tanh": "Tanh"}
_NAMES = {(layer, leaf): f"{layer}.{leaf}" for layer in LAYERS for leaf in ("kernel", "bias")}


def graph(arch: "Architecture", hyper: "Hyper", dataset: "Dataset", params: torch_layout.Params) -> Any:
    """The `onnx.ModelProto` of a network, with its classes' names in `metadata_props`.

    `hyper` is a run's of one member; `params` are that member's, without the axis of members.

    Raises:
      UserError: the onnx package isn't installed.
    """
    try:
        import onnx
        from onnx import helper
    except ImportError:
        raise UserError('--to onnx needs the onnx package, which is not installed: pip install -e ".[onnx]"') from None

    build = _Graph()
    x = _view(build, arch, hyper, dataset.stats, dataset.image_shape)
    tensors = torch_layout.to_oihw(params, _NAMES, arch.map_sizes[-1])
    x = _layers(build, arch, hyper, tensors, x)
    build.add("LogSoftmax", [x], output="log_probabilities", axis=-1)

    images = helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, ["batch", *dataset.image_shape])
    answers = helper.make_tensor_value_info("log_probabilities", onnx.TensorProto.FLOAT, ["batch", len(dataset.classes)])
    made = helper.make_graph(build.nodes, "alexnet", [images], [answers], build.constants)
    model = helper.make_model(made, producer_name="alexnet_jax", opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    helper.set_model_props(model, {"classes": json.dumps(dataset.classes, ensure_ascii=False)})
    onnx.checker.check_model(model)
    return model


class _Graph:
    """The nodes and constants of a graph that is being built. Every node has one output, and that has the node's name."""

    def __init__(self):
        self.nodes, self.constants = [], []

    def add(self, operator: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        """Add a node, and return the name of its output."""
        from onnx import helper

        name = output or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name, **attributes))
        return name

    def constant(self, name: str, values: Any) -> str:
        """Add a constant, and return its name."""
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name


def _view(build: _Graph, arch: "Architecture", hyper: "Hyper", stats: "PixelStats", image_shape: tuple[int, int, int]) -> str:
    """Add what stands before the first layer: centre crop, mean, whitening, scale. The output is (batch, channels, size, size)."""
    starts = [(side - arch.input_size) // 2 for side in image_shape[:2]]
    ends = [start + arch.input_size for start in starts]
    bounds = [build.constant(name, np.array(place, np.int64)) for name, place in (("starts", starts), ("ends", ends), ("axes", [1, 2]))]
    x = build.add("Cast", [build.add("Slice", ["images", *bounds])], to=1)  # float32
    x = build.add("Sub", [x, build.constant("pixel_mean", stats.mean)])
    if strength := np.float32(hyper.whitening[0]):
        centred = build.add("Sub", [x, build.add("ReduceMean", [x], axes=[1, 2, 3])])
        variance = build.add("ReduceMean", [build.add("Mul", [centred, centred])], axes=[1, 2, 3])
        floor = build.constant("deviation_floor", np.float32(1 / np.sqrt(arch.input_size**2 * image_shape[2])))
        deviation = build.add("Max", [build.add("Sqrt", [variance]), floor])
        white = build.add("Mul", [build.add("Div", [centred, deviation]), build.constant("whitening", strength * stats.std)])
        x = build.add("Add", [build.add("Mul", [x, build.constant("not_whitened", 1 - strength)]), white])
    x = build.add("Div", [x, build.constant("pixel_scale", np.array(arch.pixel_scales, np.float32))])
    return build.add("Transpose", [x], perm=[0, 3, 1, 2])


def _layers(build: _Graph, arch: "Architecture", hyper: "Hyper", tensors: dict[str, np.ndarray], x: str) -> str:
    """Add the eight layers, and return the name of the logits. `tensors` are in PyTorch's layout, which is also ONNX's."""

    def affine(operator: str, layer: str, x: str, **attributes: Any) -> str:
        constants = [build.constant(name, tensors[name]) for name in (f"{layer}.kernel", f"{layer}.bias")]
        return build.add(operator, [x, *constants], output=layer, **attributes)

    def norm(x: str, stage: int) -> str:
        k, alpha, beta = (float(values[0]) for values in (hyper.lrn_k, hyper.lrn_alpha, hyper.lrn_beta))
        if not (alpha and beta):  # a factor, 1 where LRN is switched off; onnxruntime's LRN refuses such constants
            return build.add("Mul", [x, build.constant(f"norm{stage}.factor", np.float32(k**-beta))], f"norm{stage}")
        size, channels = arch.lrn_size, len(tensors[f"conv{stage}.bias"])
        alpha *= arch.pixel_scales[0] ** 2 * (1 if arch.lrn_convention == "per_size" else size)  # ONNX divides by the size
        if size % 2:
            return build.add("LRN", [x], f"norm{stage}", size=size, alpha=alpha, beta=beta, bias=k)
        # ONNX's even window reaches up where this one reaches down, and onnxruntime has none: sums over channels as a 1x1 convolution.
        window = np.sum([np.eye(channels, k=reach) for reach in range(-(size // 2), (size - 1) // 2 + 1)], 0) * (alpha / size)
        kernel = build.constant(f"norm{stage}.window", window[..., None, None].astype(np.float32))
        bias = build.constant(f"norm{stage}.k", np.full(channels, k, np.float32))
        denominator = build.add("Conv", [build.add("Mul", [x, x]), kernel, bias])
        power = build.add("Pow", [denominator, build.constant(f"norm{stage}.beta", np.float32(beta))])
        return build.add("Div", [x, power], f"norm{stage}")

    def pool_and_norm(x: str, stage: int) -> str:
        normalised = arch.lrn and stage < 3
        if normalised and arch.lrn_order == "before_pool":
            x = norm(x, stage)
        x = build.add("MaxPool", [x], f"pool{stage}", kernel_shape=[arch.pool_size] * 2, strides=[arch.pool_stride] * 2)
        return norm(x, stage) if normalised and arch.lrn_order == "after_pool" else x

    (before, after), activation = arch.stem_padding, _ACTIVATIONS[arch.activation]
    pads = {"conv1": [before, before, after, after], "conv2": [2] * 4, "conv3": [1] * 4, "conv4": [1] * 4, "conv5": [1] * 4}
    for layer, padding in pads.items():
        stride = arch.stem_stride if layer == "conv1" else 1
        group = arch.groups if layer in ("conv2", "conv4", "conv5") else 1
        x = build.add(activation, [affine("Conv", layer, x, pads=padding, strides=[stride] * 2, group=group)])
        if layer in ("conv1", "conv2", "conv5"):
            x = pool_and_norm(x, min(int(layer[-1]), 3))
    x = build.add("Flatten", [x])
    for layer in ("fc6", "fc7"):
        x = build.add(activation, [affine("Gemm", layer, x, transB=1)])
    return affine("Gemm", "fc8", x, transB=1)
