"""The files that other projects keep networks in, read and written; weights.py is their command.

    torchvision   torchvision's alexnet, as PyTorch saves its state dict; read without ever unpickling code
    caffe         bvlc_alexnet or CaffeNet, a .caffemodel of the old or the new form; read alone
    safetensors   this project's: parameters, config and classes, all that a run directory says of one member
    stablehlo     a program for CPU, CUDA and TPU, which needs JAX and nothing of this project; written alone

A network's preprocessing comes with it: the mean and the scale of the pixels, LRN's constants, and the order of the colours in conv1.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from alexnet_jax.errors import UserError
from alexnet_jax.weights import torch_layout
from alexnet_jax.weights.torch_layout import LAYERS, Names, Params, Tensors

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from alexnet_jax.data import Dataset
    from alexnet_jax.network import Network
    from alexnet_jax.state import Networks

# Principal axes of ImageNet's colours and the standard deviations along them, RGB: cuda-convnet2's.
PCA_STD = (121.780, 37.094, 19.721)
PCA_AXES = ((-0.5635, -0.5762, -0.5920), (-0.7126, -0.0235, 0.7012), (0.4180, -0.8170, 0.3973))
STORED_SIZE = 256  # pixels, of the images from which a view is cut

_TORCHVISION = ("features.0", "features.3", "features.6", "features.8", "features.10", "classifier.1", "classifier.4", "classifier.6")
# (layer, leaf) -> the tensor's name in a file.
TORCHVISION_NAMES = {
    (layer, leaf): f"{name}.{end}"
    for layer, name in zip(LAYERS, _TORCHVISION, strict=True)
    for leaf, end in (("kernel", "weight"), ("bias", "bias"))
}
CAFFE_NAMES = {(layer, leaf): f"{layer}.blobs[{i}]" for layer in LAYERS for i, leaf in enumerate(("kernel", "bias"))}
SAFETENSORS_NAMES = {(layer, leaf): f"{layer}.{leaf}" for layer in LAYERS for leaf in ("kernel", "bias")}
_RECORD = "alexnet_jax"  # the entry of a safetensors file's metadata that holds config and dataset


class Weights(NamedTuple):
    """One network: what a run directory of one member says of it."""

    config: "ConfigDict"
    dataset: "Dataset"
    params: Params

    def networks(self) -> "tuple[Network, Networks]":
        """The network, and its parameters as a run's only member that has taken no step."""
        import jax

        from alexnet_jax.network import build
        from alexnet_jax.state import Networks

        network = build(self.config, self.dataset.image_shape, len(self.dataset.classes))
        return network, Networks(np.int32(0), jax.tree.map(lambda leaf: leaf[None], self.params), network.hyper)


def read_torchvision(path: Path) -> Weights:
    """torchvision's alexnet from a PyTorch file.

    Raises:
      UserError: PyTorch isn't installed, the file holds anything but tensors, or tensors of another network.
    """
    torch = _import_torch()
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, zipfile and pickle each have their own
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"{path} is not a PyTorch file of weights alone, or not a whole one ({reason})") from None
    if not isinstance(found, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in found.values()):
        inside = f"{', '.join(map(str, list(found)[:4]))} ..." if isinstance(found, dict) else type(found).__name__
        raise UserError(f"{path} is not a state dict: it holds {inside}; save the network's state_dict() alone")
    for name, tensor in found.items():
        if tensor.dtype != torch.float32:
            raise UserError(f"{path}: {name} is {str(tensor.dtype).removeprefix('torch.')}, it must be float32")
    tensors = {name: tensor.numpy() for name, tensor in found.items()}
    return _from_oihw(path, tensors, TORCHVISION_NAMES, "owt")


def read_caffe(path: Path) -> Weights:
    """bvlc_alexnet or CaffeNet from a caffemodel; conv1 comes out for RGB.

    Raises:
      UserError: not a caffemodel, or one of another network.
    """
    from alexnet_jax.weights import caffe

    order, tensors = caffe.read(path)
    weights = _from_oihw(path, tensors, CAFFE_NAMES, {"after_pool": "caffenet", "before_pool": "caffe"}[order])
    weights.params["conv1"]["kernel"] = weights.params["conv1"]["kernel"][:, :, ::-1]  # from BGR
    return weights


def read_safetensors(path: Path) -> Weights:
    """What `write_safetensors` wrote.

    Raises:
      UserError: not a safetensors file, one of another project, or tensors that contradict the config in it.
    """
    from safetensors import SafetensorError, safe_open

    from alexnet_jax import config as config_lib

    try:
        with safe_open(path, framework="numpy") as file:
            tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"{path} is not a safetensors file, or not a whole one ({error})") from None
    try:
        record = json.loads(metadata[_RECORD])
        config, dataset = config_lib.from_json(record["config"]), dataset_from_json(record["dataset"])
        shapes = _shapes(config, dataset)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UserError(f"{path} does not say which network it holds: only files that this command exported do") from None
    torch_layout.check(path, tensors, {SAFETENSORS_NAMES[key]: shape for key, shape in shapes.items()})
    params: Params = {layer: {} for layer in LAYERS}
    for (layer, leaf), name in SAFETENSORS_NAMES.items():
        params[layer][leaf] = tensors[name]
    return Weights(config, dataset, params)


def write_torchvision(path: Path, weights: Weights) -> str:
    """Write a state dict that torchvision's alexnet loads; returns in words what to feed it.

    Raises:
      UserError: PyTorch isn't installed, or torchvision's alexnet can't be this network.
    """
    from alexnet_jax.model.alexnet import architecture, contradictions, model_config

    config, dataset, params = weights
    different = contradictions(config.model, model_config("owt"))
    different = {
        field: both for field, both in different.items() if not field.startswith("pixel_")
    }  # the preprocessing's, not the network's
    if dataset.image_shape[2] != 3:
        different["channels"] = (dataset.image_shape[2], 3)
    if different:
        raise UserError(f"torchvision's alexnet can't hold this network, which has {words(different)}")
    torch, arch = _import_torch(), architecture(config.model)
    tensors = torch_layout.to_oihw(params, TORCHVISION_NAMES, arch.map_sizes[-1])
    with path.open("wb") as file:
        torch.save({name: torch.from_numpy(tensor) for name, tensor in tensors.items()}, file)
    mean, std = (", ".join(f"{value / 255:.5g}" for value in values) for values in (dataset.stats.mean, arch.pixel_scales))
    whitened = f", whitened with strength {config.augment.whitening:g} (alexnet_jax/augment.py)" if config.augment.whitening else ""
    return f"feed it RGB in [0, 1] less the mean {mean}{whitened}, divided by {std}"


def write_safetensors(path: Path, weights: Weights) -> str:
    """Write all that a run directory says of one member; returns how to read it."""
    from safetensors.numpy import save

    config, dataset, params = weights
    record = {"config": json.loads(config.to_json()), "dataset": dataset.describe()}
    tensors = {name: np.ascontiguousarray(params[layer][leaf]) for (layer, leaf), name in SAFETENSORS_NAMES.items()}
    path.write_bytes(save(tensors, {_RECORD: json.dumps(record)}))
    return "read it back with: python -m alexnet_jax.weights import --from safetensors"


def write_stablehlo(path: Path, weights: Weights) -> str:
    """Write the program uint8 (batch, height, width, channels) -> float32 (batch, classes); returns in words what to feed it."""
    import jax
    import jax.export
    import jax.numpy as jnp

    from alexnet_jax.model.forward import make_log_probs

    network, networks = weights.networks()
    params, hyper = jax.tree.map(jnp.asarray, (networks.params, networks.hyper))
    log_probs = make_log_probs(network.model, weights.dataset.stats)
    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *weights.dataset.image_shape), np.uint8)
    exported = jax.export.export(jax.jit(lambda images: log_probs(params, hyper, images)[0]), platforms=("cpu", "cuda", "tpu"))(images)
    path.write_bytes(exported.serialize())
    return f"feed it uint8 images (batch, {', '.join(map(str, weights.dataset.image_shape))}); what comes back are log-probabilities"


def dataset_from_json(record: dict[str, Any]) -> "Dataset":
    """The `Dataset` that `describe` described, without its examples."""
    from alexnet_jax.data import Dataset, stats_from_json

    shape, stats = tuple(record["image_shape"]), stats_from_json(record["stats"])
    return Dataset(record["name"], tuple(record["classes"]), shape, record["split_sizes"], stats, builder=None)


def _from_oihw(path: Path, tensors: Tensors, names: Names, variant: str) -> Weights:
    """A variant trained elsewhere on ImageNet, with the mean that the variant subtracts."""
    from alexnet_jax.model.alexnet import architecture, model_config
    from alexnet_jax.run import unnamed
    from configs import imagenet

    config = imagenet.get_config(f"variant={variant}")
    config.augment.whitening = 0.0  # nobody else whitens
    pixel_std = sum(std**2 for std in PCA_STD) / 3
    stats = {"mean": config.model.pixel_mean, "std": pixel_std**0.5, "pca_std": PCA_STD, "pca_axes": PCA_AXES}
    classes = unnamed(tensors[names["fc8", "bias"]].size if names["fc8", "bias"] in tensors else 1000)
    shape = (STORED_SIZE, STORED_SIZE, 3)
    dataset = dataset_from_json({"name": config.data.name, "classes": classes, "image_shape": shape, "split_sizes": {}, "stats": stats})
    torch_layout.check(path, tensors, {names[key]: torch_layout.oihw_shape(shape) for key, shape in _shapes(config, dataset).items()})
    return Weights(config.lock(), dataset, torch_layout.from_oihw(tensors, names, architecture(model_config(variant)).map_sizes[-1]))


def _shapes(config: "ConfigDict", dataset: "Dataset") -> dict[tuple[str, str], tuple[int, ...]]:
    """The shape of every parameter, by layer and leaf."""
    from alexnet_jax.network import build

    network = build(config, dataset.image_shape, len(dataset.classes))
    params = network.abstract_state().params
    return {(layer, leaf): params[layer][leaf].shape[1:] for layer in LAYERS for leaf in ("kernel", "bias")}


def words(different: dict[str, tuple[Any, Any]]) -> str:
    """`contradictions` of models as part of a sentence."""
    return ", ".join(f"{field} {ours} and not {theirs}" for field, (ours, theirs) in different.items())


def _import_torch() -> Any:
    try:
        import torch
    except ImportError:
        raise UserError('this format needs PyTorch, which is not installed: pip install -e ".[peers]"') from None
    return torch


READERS = {"torchvision": read_torchvision, "caffe": read_caffe, "safetensors": read_safetensors}
WRITERS = {"torchvision": write_torchvision, "safetensors": write_safetensors, "stablehlo": write_stablehlo}
