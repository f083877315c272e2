"""The files that other projects keep networks in, read and written; weights.py is their command.

    torchvision   torchvision's alexnet, as PyTorch saves its state dict, alone or in a checkpoint, or as safetensors does; read without
                  PyTorch (pth.py)
    caffe         bvlc_alexnet or CaffeNet, a .caffemodel of the old or the new form; read alone
    safetensors   this project's: parameters, config and classes, all that a run directory says of one member
    stablehlo     a program for CPU, CUDA and TPU, which needs JAX and nothing of this project; written alone
    onnx          a graph for any ONNX runtime (onnx_graph.py); written alone

A network's preprocessing comes with it: the mean and the scale of the pixels, LRN's constants, and the order of the colours in conv1.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from alexnet_jax import classes
from alexnet_jax.errors import UserError
from alexnet_jax.weights import matching, torch_layout
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


Reading = tuple[Weights, list[str]]  # what was read, and what its user should know of how: names that were changed, numbers converted


def read_torchvision(path: Path, under: str = "") -> Reading:
    """torchvision's alexnet from a PyTorch or a safetensors file: a state dict, alone or in a checkpoint, with wrappers' prefixes.

    `under` says which, where a file holds several.

    Raises:
      UserError: neither of these files, one that holds more than data, or no such network or several.
    """
    from alexnet_jax.weights import pth

    if _is_safetensors(path):
        tree, metadata = _open_safetensors(path)
        if _RECORD in metadata:
            raise UserError(f"{path} is this project's own safetensors file; import it with --from safetensors")
    else:
        tree = pth.read(path)

    def shapes_of(tensors: Mapping[str, matching.Tensor]) -> matching.Shapes:
        return _oihw_shapes("owt", TORCHVISION_NAMES, _count(tensors, TORCHVISION_NAMES))

    stored, notes = matching.find(path, tree, shapes_of, under)
    tensors = {name: tensor.array() for name, tensor in stored.items()}
    kinds = {tensor.dtype.name for tensor in tensors.values()}
    if strange := kinds - {"float16", "bfloat16", "float32", "float64"}:
        raise UserError(f"{path} holds {' and '.join(sorted(strange))} numbers where weights are wanted, which are floats")
    if others := kinds - {"float32"}:
        notes.append(f"converted to float32 from {' and '.join(sorted(others))}{', and so rounded' if 'float64' in others else ''}")
        tensors = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
    return _from_oihw(tensors, TORCHVISION_NAMES, "owt", imagenet=True), notes


def read_caffe(path: Path) -> Reading:
    """bvlc_alexnet or CaffeNet from a caffemodel; conv1 comes out for RGB.

    Raises:
      UserError: not a caffemodel, or one of another network.
    """
    from alexnet_jax.weights import caffe

    order, last, tensors = caffe.read(path)
    notes = []
    if last not in ("", *LAYERS) and "fc8.blobs[0]" not in tensors:  # Caffe's users rename the layer that they train anew
        notes.append(f"the last layer is {last}: it is fc8 here")
        tensors = {name.replace(f"{last}.blobs", "fc8.blobs"): array for name, array in tensors.items()}
    variant = {"after_pool": "caffenet", "before_pool": "caffe"}[order]
    matching.check(path, tensors, _oihw_shapes(variant, CAFFE_NAMES, _count(tensors, CAFFE_NAMES)))
    weights = _from_oihw(tensors, CAFFE_NAMES, variant, imagenet=not notes)
    weights.params["conv1"]["kernel"] = weights.params["conv1"]["kernel"][:, :, ::-1]  # from BGR
    return weights, notes


def read_safetensors(path: Path) -> Reading:
    """What `write_safetensors` wrote.

    Raises:
      UserError: not a safetensors file, one of another project, or tensors that contradict the config in it.
    """
    from alexnet_jax import config as config_lib

    held, metadata = _open_safetensors(path)
    tensors = {name: tensor.array() for name, tensor in held.items()}
    if _RECORD not in metadata:
        raise UserError(
            f"{path} does not say which network it holds: only files that this command exported do; "
            "a network with torchvision's names of tensors is imported with --from torchvision"
        )
    try:
        record = json.loads(metadata[_RECORD])
        config, dataset = config_lib.from_json(record["config"]), dataset_from_json(record["dataset"])
        shapes = _shapes(config, dataset)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UserError(f"{path} says in its metadata which network it holds, but not as this command writes it; export it again") from None
    matching.check(path, tensors, {SAFETENSORS_NAMES[key]: shape for key, shape in shapes.items()})
    params: Params = {layer: {} for layer in LAYERS}
    for (layer, leaf), name in SAFETENSORS_NAMES.items():
        params[layer][leaf] = tensors[name]
    return Weights(config, dataset, params), []


@dataclasses.dataclass(frozen=True)
class _Held:
    """A tensor of a safetensors file. Two are equal that have one name."""

    name: str
    numbers: np.ndarray = dataclasses.field(repr=False, compare=False)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.numbers.shape

    @property
    def dtype(self) -> np.dtype:
        return self.numbers.dtype

    def array(self) -> np.ndarray:
        return self.numbers


def _is_safetensors(path: Path) -> bool:
    """By its beginning: 8 bytes, how long the JSON map is that follows."""
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError:  # of which the reader tells
        return False
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size


def _open_safetensors(path: Path) -> tuple[dict[str, _Held], dict[str, str]]:
    """Its tensors by their names, and its metadata.

    Raises:
      UserError: it isn't one, or not a whole one.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return {name: _Held(name, file.get_tensor(name)) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except AttributeError:
        raise UserError(f"{path} holds numbers that NumPy lacks, as those of 8 bits; convert them to float16 or float32") from None
    except SafetensorError as error:
        raise UserError(f"{path} is not a safetensors file, or not a whole one ({error})") from None


def write_torchvision(path: Path, weights: Weights) -> str:
    """Write a state dict that torchvision's alexnet loads; returns in words what to feed it.

    Raises:
      UserError: PyTorch isn't installed, or torchvision's alexnet can't be this network.
    """
    from alexnet_jax.model.architecture import architecture, contradictions, model_config

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
    path.write_bytes(save(tensors, {_RECORD: json.dumps(record), "classes": json.dumps(dataset.classes)}))
    return "read it back with: python -m alexnet_jax.weights import --from safetensors"


def write_stablehlo(path: Path, weights: Weights) -> str:
    """Write the program uint8 (batch, height, width, channels) -> float32 (batch, classes); returns in words what to feed it."""
    import jax
    import jax.export
    import jax.numpy as jnp

    from alexnet_jax.model.forward import make_log_probs

    network, networks = weights.networks()
    params, hyper = jax.tree.map(jnp.asarray, (networks.params, networks.hyper))
    everywhere = dataclasses.replace(network.model.arch, conv_form="direct")  # not as on this device
    log_probs = make_log_probs(network.model.clone(arch=everywhere), weights.dataset.stats)
    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *weights.dataset.image_shape), np.uint8)
    exported = jax.export.export(jax.jit(lambda images: log_probs(params, hyper, images)[0]), platforms=("cpu", "cuda", "tpu"))(images)
    path.write_bytes(exported.serialize())
    return f"feed it uint8 images (batch, {', '.join(map(str, weights.dataset.image_shape))}); what comes back are log-probabilities"


def write_onnx(path: Path, weights: Weights) -> str:
    """Write the graph of `write_stablehlo`'s program, in float32, for any ONNX runtime; returns in words what to feed it.

    Raises:
      UserError: the onnx package isn't installed.
    """
    from alexnet_jax.weights.onnx_graph import graph

    network, _ = weights.networks()
    made = graph(network.model.arch, network.hyper, weights.dataset, weights.params)
    path.write_bytes(made.SerializeToString())
    shape = ", ".join(map(str, weights.dataset.image_shape))
    return f"feed it uint8 images (batch, {shape}); what comes back are log-probabilities; the classes' names are in its metadata"


def dataset_from_json(record: dict[str, Any]) -> "Dataset":
    """The `Dataset` that `describe` described, without its examples."""
    from alexnet_jax.data import Dataset, stats_from_json

    names = {field.name for field in dataclasses.fields(Dataset)}
    known: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in record.items() if name in names}
    known |= {"stats": stats_from_json(record["stats"]), "builder": None}
    return Dataset(**known)


def _from_oihw(tensors: Tensors, names: Names, variant: str, imagenet: bool) -> Weights:
    """A variant trained elsewhere, with the mean that the variant subtracts.

    With `imagenet` 1000 classes are ImageNet's: PyTorch's and Caffe's order of them is that of their WordNet ids.
    """
    from alexnet_jax.model.architecture import architecture

    count = _count(tensors, names)
    named = classes.imagenet() if imagenet and count == classes.IMAGENET_CLASSES else classes.unnamed(count)
    config, dataset = _imagenet(variant, named)
    return Weights(config, dataset, torch_layout.from_oihw(tensors, names, architecture(config.model).map_sizes[-1]))


def _imagenet(variant: str, named: tuple[str, ...]) -> "tuple[ConfigDict, Dataset]":
    """The config of a variant as elsewhere it is trained on ImageNet, and its dataset."""
    from configs import imagenet

    config = imagenet.get_config(f"variant={variant}")
    config.augment.whitening = 0.0  # nobody else whitens
    pixel_std = sum(std**2 for std in PCA_STD) / 3
    stats = {"mean": config.model.pixel_mean, "std": pixel_std**0.5, "pca_std": PCA_STD, "pca_axes": PCA_AXES}
    shape = (STORED_SIZE, STORED_SIZE, 3)
    record = {"name": config.data.name, "classes": named, "image_shape": shape, "split_sizes": {}, "stats": stats}
    record["class_words"] = classes.words(named)
    return config.lock(), dataset_from_json(record)


def _oihw_shapes(variant: str, names: Names, count: int) -> matching.Shapes:
    """The shape of every tensor of a variant for so many classes, by its name there."""
    config, dataset = _imagenet(variant, classes.unnamed(count))
    return {names[key]: torch_layout.oihw_shape(shape) for key, shape in _shapes(config, dataset).items()}


def _count(tensors: Mapping[str, matching.Tensor], names: Names) -> int:
    """The number of classes, by the last layer's bias, or else by its kernel; ImageNet's where there is neither."""
    for leaf, axes in (("bias", 1), ("kernel", 2)):
        tensor = tensors.get(names["fc8", leaf])
        if tensor is not None and len(tensor.shape) == axes and tensor.shape[0]:
            return tensor.shape[0]
    return classes.IMAGENET_CLASSES


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
WRITERS = {"torchvision": write_torchvision, "safetensors": write_safetensors, "stablehlo": write_stablehlo, "onnx": write_onnx}
