"""Weights from and for elsewhere: what is read computes the same, what goes round comes back to the bit, wrong files are refused."""

import json
import pickle
import re
import shutil
import struct
import sys
from pathlib import Path

import jax
import jax.export
import numpy as np
import pytest
import sklearn.datasets

from alexnet_jax import config as config_lib
from alexnet_jax import data, evaluate, predict, run
from alexnet_jax import network as network_lib
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.errors import UserError
from alexnet_jax.hyper import Hyper
from alexnet_jax.model import alexnet as model
from alexnet_jax.model.forward import make_log_probs
from alexnet_jax.prepare.images import load_image, resize_and_crop
from alexnet_jax.report.network import network_sections
from alexnet_jax.report.write import write_report
from alexnet_jax.state import Networks
from alexnet_jax.train.loop import train
from alexnet_jax.weights import formats, torch_layout
from alexnet_jax.weights.__main__ import main, read_run
from alexnet_jax.weights.formats import CAFFE_NAMES, SAFETENSORS_NAMES, TORCHVISION_NAMES
from alexnet_jax.weights.torch_layout import LAYERS
from experiments import parity

PHOTOS = [Path(sklearn.datasets.__file__).parent / "images" / name for name in ("china.jpg", "flower.jpg")]
WIDTH = 1 / 16


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    """The published networks with a sixteenth of their units: 300,000 parameters, and all else as it is."""
    for variant in ("one_tower", "caffenet", "caffe", "owt"):
        monkeypatch.setitem(model.VARIANTS, variant, {**model.VARIANTS[variant], "width": WIDTH})


@pytest.fixture
def stored():
    """Two photographs as `prepare` stores them: uint8 (2, 256, 256, 3)."""
    return np.stack([resize_and_crop(load_image(photo), 256) for photo in PHOTOS])


def random_tensors(variant, names, classes=10, seed=0):
    """Random tensors in the layout of PyTorch and Caffe, under a format's names."""
    rng = np.random.default_rng(seed)
    net = model.AlexNet(model.architecture(model.model_config(variant)), classes)
    image = np.zeros((1, net.arch.input_size, net.arch.input_size, 3), np.float32)
    shapes = jax.eval_shape(net.init, jax.random.key(0), image, Hyper())["params"]
    tensors = {}
    for (layer, leaf), name in names.items():
        shape = torch_layout.oihw_shape(shapes[layer][leaf].shape)
        scale = (2 / np.prod(shape[1:])) ** 0.5 if leaf == "kernel" else 0.1
        tensors[name] = rng.normal(0, scale, shape).astype(np.float32)
    return tensors


# --- a caffemodel by hand: protobuf's wire format, and the numbers of caffe.proto ---


def varint(number):
    low, rest = number & 127, number >> 7
    return bytes([low | 128]) + varint(rest) if rest else bytes([low])


def number(field, value):
    return varint(field << 3) + varint(value)


def content(field, value):
    return varint(field << 3 | 2) + varint(len(value)) + value


def blob(array, old):
    values = content(5, array.astype("<f4").tobytes())
    if old:
        shape = (1,) * (4 - array.ndim) + array.shape
        return b"".join(number(field, size) for field, size in enumerate(shape, 1)) + values
    return values + content(7, content(1, b"".join(varint(size) for size in array.shape)))


def caffemodel(tensors, order, old):
    """A file's bytes: layers with blobs, and among them the pooling and normalising ones in the order of a variant."""
    kinds = {
        "conv": (4, b"Convolution"),
        "pool": (17, b"Pooling"),
        "norm": (15, b"LRN"),
        "fc": (14, b"InnerProduct"),
        "relu": (18, b"ReLU"),
    }
    first = ["norm1", "pool1"] if order == "before_pool" else ["pool1", "norm1"]
    net = content(1, b"a network")
    for name in ["conv1", "relu1", *first, *LAYERS[1:]]:
        old_kind, new_kind = kinds[name.rstrip("12345678")]
        blobs = [tensors[key] for key in (f"{name}.blobs[0]", f"{name}.blobs[1]") if key in tensors]
        if old:
            layer = content(4, name.encode()) + number(5, old_kind) + b"".join(content(6, blob(array, old)) for array in blobs)
            net += content(2, content(2, b"data") + layer)  # with a field that the reader doesn't know
        else:
            layer = content(1, name.encode()) + content(2, new_kind) + b"".join(content(7, blob(array, old)) for array in blobs)
            net += content(100, layer)
    return net


@pytest.fixture
def caffe_file(tmp_path):
    def make(variant="caffenet", old=True, **changes):
        tensors = random_tensors(variant, CAFFE_NAMES) | changes.pop("tensors", {})
        for name in changes.pop("without", ()):
            del tensors[name]
        order = {"caffenet": "after_pool", "caffe": "before_pool"}[variant]
        (tmp_path / "net.caffemodel").write_bytes(caffemodel(tensors, order, old))
        return tmp_path / "net.caffemodel", tensors

    return make


def imported(kind, file, tmp_path, *arguments):
    main(["import", "--from", kind, str(file), "--workdir", str(tmp_path / f"from-{kind}"), *arguments])
    return run.load(tmp_path / f"from-{kind}")


def log_probs(loaded, images):
    return np.asarray(jax.jit(make_log_probs(loaded.network.model, loaded.stats))(loaded.state.params, loaded.state.hyper, images))


def same(a, b):
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


def refusal(arguments):
    with pytest.raises(UserError) as caught:
        main([str(argument) for argument in arguments])
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- layouts ---


def test_layouts_by_meaning():
    """A map flattened as channel, row, column there and as row, column, channel here meets the same weights; kernels likewise."""
    rng = np.random.default_rng(0)
    maps, dense, conv = rng.normal(size=(5, 3, 3)), rng.normal(size=(7, 45)), rng.normal(size=(4, 2, 3, 3))
    tensors = {name: np.zeros(1) for name in TORCHVISION_NAMES.values()} | {"features.3.weight": conv, "classifier.1.weight": dense}
    params = torch_layout.from_oihw(tensors, TORCHVISION_NAMES, 3)
    np.testing.assert_allclose(maps.transpose(1, 2, 0).reshape(-1) @ params["fc6"]["kernel"], dense @ maps.reshape(-1))
    assert params["conv2"]["kernel"][2, 1, 0, 3] == conv[3, 0, 2, 1]
    back = torch_layout.to_oihw(params, TORCHVISION_NAMES, 3)
    assert all(np.array_equal(back[name], tensors[name]) for name in tensors)


def test_ungrouped_kernel_is_block_diagonal():
    kernel = np.arange(1, 3 * 3 * 2 * 6 + 1, dtype=np.float32).reshape(3, 3, 2, 6)
    full = torch_layout.ungroup(kernel, 2)
    assert np.array_equal(full[:, :, :2, :3], kernel[..., :3])
    assert np.array_equal(full[:, :, 2:, 3:], kernel[..., 3:])
    assert np.count_nonzero(full) == kernel.size


# --- Caffe ---


@pytest.mark.parametrize("old", [True, False], ids=["old form", "new form"])
@pytest.mark.parametrize("variant", ["caffenet", "caffe"])
def test_caffe(variant, old, caffe_file, tmp_path):
    file, tensors = caffe_file(variant, old)
    loaded = imported("caffe", file, tmp_path)
    params = jax.tree.map(lambda leaf: leaf[0], loaded.state.params)
    assert np.array_equal(params["conv1"]["kernel"], tensors["conv1.blobs[0]"].transpose(2, 3, 1, 0)[:, :, ::-1])  # RGB, from BGR
    assert np.array_equal(params["conv4"]["kernel"], tensors["conv4.blobs[0]"].transpose(2, 3, 1, 0))
    assert np.array_equal(params["fc7"]["kernel"], tensors["fc7.blobs[0]"].T)
    assert all(np.array_equal(params[layer]["bias"], tensors[f"{layer}.blobs[1]"]) for layer in LAYERS)
    expected = model.model_config(variant)
    assert loaded.config.model.to_dict() == expected.to_dict()
    assert (expected.lrn_convention, expected.lrn_k, expected.pixel_scale) == ("per_size", 1.0, 1.0)
    assert loaded.config.augment.whitening == 0
    np.testing.assert_allclose(loaded.stats.mean, [122.67891, 116.66877, 104.00699])
    assert loaded.classes == tuple(f"class {i}" for i in range(10))
    assert json.loads((tmp_path / "from-caffe" / "config.json").read_text())["dataset"]["image_shape"] == [256, 256, 3]


@pytest.mark.parametrize("variant", ["caffenet", "caffe"])
def test_caffe_computes_what_caffe_would(variant, caffe_file, tmp_path, stored):
    """The file's own tensors in a PyTorch network that is fed as Caffe is: BGR, less BGR's mean, 227 pixels of the centre."""
    torch = pytest.importorskip("torch")
    from experiments.peers import torch_alexnet

    file, tensors = caffe_file(variant)
    network = torch_alexnet.AlexNet(torch_alexnet.VARIANTS[variant].narrow(WIDTH), 10)
    ends = {"blobs[0]": "weight", "blobs[1]": "bias"}
    network.load_state_dict({f"{n.split('.')[0]}.{ends[n.split('.')[1]]}": torch.from_numpy(array) for n, array in tensors.items()})
    bgr = stored[:, 14:241, 14:241, ::-1].astype(np.float32) - np.float32([104.00699, 116.66877, 122.67891])
    with torch.no_grad():
        expected = torch.log_softmax(network(torch.from_numpy(bgr.transpose(0, 3, 1, 2).copy())), -1).numpy()
    found = log_probs(imported("caffe", file, tmp_path), stored)[0]
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_caffenet_as_the_seed_network(caffe_file, tmp_path, stored):
    file, _ = caffe_file("caffenet")
    grouped = imported("caffe", file, tmp_path)
    main(["import", "--from", "caffe", str(file), "--workdir", str(tmp_path / "seed"), "--as", "one_tower"])
    full = run.load(tmp_path / "seed")
    differing = {field for field, value in full.config.model.items() if value != model.model_config("one_tower")[field]}
    assert differing == {"lrn_convention", "lrn_k", "init", "pixel_mean"}
    kernel = full.state.params["conv2"]["kernel"][0]
    half_in, half_out = kernel.shape[2] // 2, kernel.shape[3] // 2
    assert not kernel[:, :, :half_in, half_out:].any()
    assert not kernel[:, :, half_in:, :half_out].any()
    assert np.array_equal(kernel[:, :, :half_in, :half_out], grouped.state.params["conv2"]["kernel"][0, ..., :half_out])
    expected = log_probs(grouped, stored)
    np.testing.assert_allclose(log_probs(full, stored), expected, atol=1e-5 * np.abs(expected).max())


def test_bvlc_alexnet_is_no_seed_network(caffe_file, tmp_path):
    message = refusal(["import", "--from", "caffe", caffe_file("caffe")[0], "--workdir", tmp_path / "x", "--as", "one_tower"])
    assert message == "--as one_tower: the study post's network can't be this one, which has lrn_order before_pool and not after_pool"
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"tensors": {"conv3.blobs[0]": np.zeros((24, 16, 5, 5))}},
            r"conv3.blobs[0] has shape (24, 16, 5, 5), this network's has (24, 16, 3, 3)",
        ),
        ({"tensors": {"fc8.blobs[0]": np.zeros((10, 255))}}, r"fc8.blobs[0] has shape (10, 255), this network's has (10, 256)"),
        ({"tensors": {"fc7.blobs[1]": np.zeros(0)}}, r"fc7.blobs[1] has shape (0,), this network's has (256,)"),
        ({"without": ["fc8.blobs[0]", "fc8.blobs[1]"]}, "has no tensor fc8.blobs[0] of shape (1000, 256); it holds conv1.blobs[0]"),
        ({"without": ["conv5.blobs[1]"]}, "has no tensor conv5.blobs[1] of shape (16,)"),
    ],
)
@pytest.mark.parametrize("old", [True, False], ids=["old form", "new form"])
def test_another_caffemodel(changes, message, old, caffe_file, tmp_path):
    file, _ = caffe_file("caffenet", old, **changes)
    assert message in refusal(["import", "--from", "caffe", file, "--workdir", tmp_path / "x"])
    assert not (tmp_path / "x").exists()


def test_no_caffemodel(caffe_file, tmp_path):
    file, _ = caffe_file("caffenet", old=False)
    whole = file.read_bytes()
    for cut in (len(whole) - 3, len(whole) // 2):
        file.write_bytes(whole[:cut])
        assert "is not a caffemodel, or not a whole one" in refusal(["import", "--from", "caffe", file, "--workdir", tmp_path / "x"])
    file.write_bytes(b"")
    assert "it holds no layers" in refusal(["import", "--from", "caffe", file, "--workdir", tmp_path / "x"])
    file.write_bytes(content(1, b"LeNet") + content(100, content(1, b"conv1") + content(2, b"Convolution")))
    assert "no LRN and pooling layers" in refusal(["import", "--from", "caffe", file, "--workdir", tmp_path / "x"])
    short = content(5, np.zeros(5, "<f4").tobytes()) + content(7, content(1, varint(6)))
    file.write_bytes(content(100, content(1, b"conv1") + content(2, b"Convolution") + content(7, short)))
    message = refusal(["import", "--from", "caffe", file, "--workdir", tmp_path / "x"])
    assert message.endswith("conv1.blobs[0] holds 5 float32 numbers, its shape (6,) takes 6")


# --- torchvision ---


@pytest.fixture
def pth(tmp_path):
    torch = pytest.importorskip("torch")

    def make(content=None, **changes):
        tensors = random_tensors("owt", TORCHVISION_NAMES) | changes.pop("tensors", {})
        state = {name: torch.from_numpy(array) for name, array in tensors.items()}
        torch.save(content(state) if content else state, tmp_path / "net.pth")
        return tmp_path / "net.pth", tensors

    return make


def test_torchvision_there_and_back(pth, tmp_path):
    import torch

    file, tensors = pth()
    loaded = imported("torchvision", file, tmp_path)
    assert loaded.config.model.to_dict() == model.model_config("owt").to_dict()
    np.testing.assert_allclose(loaded.stats.mean, np.float32([0.485, 0.456, 0.406]) * 255, rtol=1e-6)
    np.testing.assert_allclose(loaded.config.model.pixel_scale, np.array([0.229, 0.224, 0.225]) * 255)
    main(["export", "--to", "torchvision", str(tmp_path / "back.pth"), "--run", str(tmp_path / "from-torchvision")])
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert list(back) == list(tensors)
    assert all(np.array_equal(back[name].numpy(), tensors[name]) for name in tensors)


def test_torchvision_computes_what_torchvision_would(pth, tmp_path, stored, capsys):
    """torchvision's preprocessing, [0, 1], then mean and std, in front of a PyTorch network with the file's own tensors."""
    import torch

    from experiments.peers import torch_alexnet

    file, tensors = pth()
    network = torch_alexnet.AlexNet(torch_alexnet.VARIANTS["owt"].narrow(WIDTH), 10)
    ours = {name: f"{layer}.{'weight' if leaf == 'kernel' else 'bias'}" for (layer, leaf), name in TORCHVISION_NAMES.items()}
    network.load_state_dict({ours[name]: torch.from_numpy(array) for name, array in tensors.items()})
    pixels = torch.from_numpy(stored[:, 16:240, 16:240].transpose(0, 3, 1, 2).astype(np.float32)) / 255
    pixels = (pixels - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    with torch.no_grad():
        expected = torch.log_softmax(network(pixels), -1).numpy()
    loaded = imported("torchvision", file, tmp_path)
    np.testing.assert_allclose(log_probs(loaded, stored)[0], expected, atol=1e-4 * np.abs(expected).max())

    capsys.readouterr()
    assert predict.main(["--run", str(loaded.workdir), str(PHOTOS[0]), "--top", "1"]) == 0
    assert f"class {expected[0].argmax()}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {"features.0.weight": np.zeros((4, 3, 3, 3), np.float32)},
            "features.0.weight has shape (4, 3, 3, 3), this network's has (4, 3, 11, 11)",
        ),
        ({"features.12.weight": np.zeros(3, np.float32)}, "holds another network: features.12.weight of shape (3,) has no place"),
        ({"classifier.6.bias": np.zeros(10, np.float16)}, "classifier.6.bias is float16, it must be float32"),
    ],
)
def test_another_pth(tensors, message, pth, tmp_path):
    assert message in refusal(["import", "--from", "torchvision", pth(tensors=tensors)[0], "--workdir", tmp_path / "x"])
    assert not (tmp_path / "x").exists()


def test_pth_without_a_tensor(pth, tmp_path):
    file, _ = pth(lambda state: {name: tensor for name, tensor in state.items() if name != "features.3.bias"})
    message = refusal(["import", "--from", "torchvision", file, "--workdir", tmp_path / "x"])
    assert "has no tensor features.3.bias of shape (12,); it holds classifier.1.bias" in message


def test_pth_of_a_training(pth, tmp_path):
    file, _ = pth(lambda state: {"epoch": 3, "state_dict": state})
    message = refusal(["import", "--from", "torchvision", file, "--workdir", tmp_path / "x"])
    assert "is not a state dict: it holds epoch, state_dict ...; save the network's state_dict() alone" in message


def test_no_pth(pth, tmp_path):
    file, _ = pth()
    whole = file.read_bytes()
    for bad in (whole[: len(whole) // 2], b"", b"no weights"):
        file.write_bytes(bad)
        assert "is not a PyTorch file of weights alone, or not a whole one" in refusal(
            ["import", "--from", "torchvision", file, "--workdir", tmp_path / "x"]
        )


class Trap:
    """Unpickled blindly, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_nothing_is_unpickled_blindly(pth, tmp_path):
    sprung = tmp_path / "sprung"
    pickle.loads(pickle.dumps(Trap(sprung)))
    assert sprung.exists()  # as the trap would
    sprung.unlink()
    file, _ = pth(lambda state: {**state, "more": Trap(sprung)})
    assert "of weights alone" in refusal(["import", "--from", "torchvision", file, "--workdir", tmp_path / "x"])
    assert not sprung.exists()


# --- runs of this project ---


@pytest.fixture(scope="module")
def members(tmp_path_factory, digits_dir):
    """A run of two members on the digits that has taken no step; they differ in seed, LRN and whitening."""
    overrides = [f"data.dir={digits_dir}", "model.width=0.04", "eval.batch_size=64"]
    overrides.append("ensemble.members=seed=5; seed=6, lrn=off, whitening=0.5, learning_rate=0.003")
    config = config_lib.load("configs/digits.py", overrides)
    return make_run(tmp_path_factory.mktemp("run") / "members", config)


def make_run(workdir, config):
    dataset = data.load(config.data)
    network = network_lib.build(config, dataset.image_shape, len(dataset.classes))
    run.write_config(workdir, config, dataset)
    with Checkpoints(workdir) as checkpoints:
        state = network.init_state()
        checkpoints.save(0, {"networks": Networks(state.step, state.params, network.hyper)}, {"evaluated": 0, "commands": 0})
    return run.load(workdir)


@pytest.mark.parametrize("member", [0, 1])
def test_safetensors_there_and_back(member, members, tmp_path):
    """A member comes back as a run of its own, with its own hyperparameters, and gives the same answers."""
    file = tmp_path / "net.safetensors"
    main(["export", "--to", "safetensors", str(file), "--run", str(members.workdir), "--member", str(member)])
    back = imported("safetensors", file, tmp_path)
    assert back.network.hyper.members == 1
    assert same(back.state.params, jax.tree.map(lambda leaf: leaf[member : member + 1], members.state.params))
    assert same(back.state.hyper, jax.tree.map(lambda leaf: leaf[member : member + 1], members.state.hyper))
    assert back.config.model.to_dict() == members.config.model.to_dict()
    assert (back.classes, back.network.member_names) == (members.classes, [f"seed={5 + member}"])
    assert same(back.stats, members.stats)
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1)).astype(np.uint8)
    assert np.array_equal(log_probs(back, images)[0], log_probs(members, images)[member])


def test_imported_weights_have_a_report(members, tmp_path):
    """Of the network alone; their classes get the dataset's names."""
    file = tmp_path / "net.safetensors"
    main(["export", "--to", "safetensors", str(file), "--run", str(members.workdir)])
    names = tmp_path / "names.txt"
    names.write_text("\n".join(run.unnamed(10)))
    main(["import", "--from", "safetensors", str(file), "--workdir", str(tmp_path / "run"), "--classes", str(names)])
    page = write_report(tmp_path / "run", network_sections(tmp_path / "run")).read_text()
    titles = re.findall(r"<h2[^>]*>(.*?)</h2>", page)
    assert titles == [
        *("First-layer filters", "Augmentation", "Confusions", "Most confident mistakes", "Predictions", "Nearest neighbours"),
        *("Calibration", "Activations", "Config", "Environment"),
    ]
    assert "These weights were not trained here." in page
    assert "class 3" not in page
    assert (tmp_path / "run" / "figures" / "filters.png").exists()


def test_what_was_set_while_it_trained_is_exported(members, tmp_path):
    changed = make_run(tmp_path / "run", members.config)
    networks = changed.state.replace(step=np.int32(1), hyper=changed.state.hyper.replace(lrn_alpha=np.float32([0.5, 0.25])))
    with Checkpoints(changed.workdir) as checkpoints:
        checkpoints.save(1, {"networks": networks}, {"evaluated": 0, "commands": 1})
    main(["export", "--to", "safetensors", str(tmp_path / "net"), "--run", str(changed.workdir), "--member", "1"])
    assert imported("safetensors", tmp_path / "net", tmp_path / "back").state.hyper.lrn_alpha == [0.25]


def test_caffe_to_safetensors_and_back(caffe_file, tmp_path):
    file, _ = caffe_file("caffe")
    first = imported("caffe", file, tmp_path)
    main(["export", "--to", "safetensors", str(tmp_path / "net.safetensors"), "--run", str(first.workdir)])
    second = imported("safetensors", tmp_path / "net.safetensors", tmp_path)
    assert same(second.state.params, first.state.params)
    assert second.config.model.to_dict() == first.config.model.to_dict()
    assert same(second.stats, first.stats)


def test_stablehlo(members, tmp_path):
    """The program answers any number of stored images, for one member, as evaluate does."""
    main(["export", "--to", "stablehlo", str(tmp_path / "net.stablehlo"), "--run", str(members.workdir), "--member", "1"])
    program = jax.export.deserialize(bytearray((tmp_path / "net.stablehlo").read_bytes()))
    assert program.platforms == ("cpu", "cuda", "tpu")
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28, 1)).astype(np.uint8)
    expected = log_probs(members, images)[1]
    for batch in (1, 5):
        np.testing.assert_allclose(program.call(images[:batch]), expected[:batch], rtol=1e-5)


def test_small_networks_are_not_torchvisions(members, tmp_path):
    message = refusal(["export", "--to", "torchvision", tmp_path / "net.pth", "--run", members.workdir])
    assert message.startswith("torchvision's alexnet can't hold this network, which has ")
    assert "input_size 28 and not 224, " in message
    assert message.endswith("channels 1 and not 3")
    assert not (tmp_path / "net.pth").exists()


def test_refused_safetensors(members, tmp_path):
    from safetensors.numpy import save

    file = tmp_path / "net.safetensors"
    main(["export", "--to", "safetensors", str(file), "--run", str(members.workdir)])
    arguments, whole = ["import", "--from", "safetensors", file, "--workdir", tmp_path / "x"], file.read_bytes()
    file.write_bytes(whole[:-4])
    assert "is not a safetensors file, or not a whole one" in refusal(arguments)
    file.write_bytes(save({"conv1.kernel": np.zeros((2, 2), np.float32)}))
    assert "does not say which network it holds" in refusal(arguments)

    weights = read_run(members.workdir, 0)
    weights.params["conv2"]["kernel"] = np.zeros((5, 5, 4, 7), np.float32)
    formats.write_safetensors(file, weights)
    assert f"{file}: conv2.kernel has shape (5, 5, 4, 7), this network's has (5, 5, 4, 10)" in refusal(arguments)
    weights.params["conv2"]["kernel"] = np.zeros((5, 5, 4, 10), np.float64)
    formats.write_safetensors(file, weights)
    assert "conv2.kernel is float64, it must be float32" in refusal(arguments)
    (length,) = struct.unpack("<Q", whole[:8])
    header = json.loads(whole[8 : 8 + length])
    record = json.loads(header["__metadata__"]["alexnet_jax"])
    del record["config"]["model"]["groups"]
    text = json.dumps({**header, "__metadata__": {"alexnet_jax": json.dumps(record)}}).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + whole[8 + length :])
    assert "does not say which network it holds" in refusal(arguments)
    assert set(SAFETENSORS_NAMES.values()) == set(header) - {"__metadata__"}
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("command", [main, parity.main])
def test_what_needs_pytorch_says_so(command, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it weren't installed
    (tmp_path / "net.pth").write_bytes(b"")
    arguments = ["import", "--from", "torchvision", str(tmp_path / "net.pth"), "--workdir", str(tmp_path / "x")]
    with pytest.raises(UserError, match=r'PyTorch.* not installed.*pip install -e "\.\[peers\]"'):
        command(arguments if command is main else [])


def test_arguments_that_make_no_sense(caffe_file, members, tmp_path):
    file, _ = caffe_file()
    assert "there is no file" in refusal(["import", "--from", "caffe", tmp_path / "none", "--workdir", tmp_path / "x"])
    assert "holds a run already" in refusal(["import", "--from", "caffe", file, "--workdir", members.workdir])
    assert "has no member 2; its members: 0 (seed=5), 1 (" in refusal(
        ["export", "--to", "safetensors", tmp_path / "x", "--run", members.workdir, "--member", 2]
    )
    assert "is not a run directory" in refusal(["export", "--to", "safetensors", tmp_path / "x", "--run", tmp_path / "none"])
    assert "cannot write" in refusal(["export", "--to", "safetensors", tmp_path / "no" / "x", "--run", members.workdir])


def test_names_of_the_classes(caffe_file, tmp_path):
    (tmp_path / "names.txt").write_text("\n".join(f"n{i:08}" for i in range(10)) + "\n")
    file, _ = caffe_file()
    assert imported("caffe", file, tmp_path, "--classes", str(tmp_path / "names.txt")).classes[3] == "n00000003"
    (tmp_path / "names.txt").write_text("one\ntwo\n")
    arguments = ["import", "--from", "caffe", file, "--workdir", tmp_path / "x", "--classes", tmp_path / "names.txt"]
    assert refusal(arguments) == f"{tmp_path / 'names.txt'} has 2 lines, the network 10 classes"


def test_unnamed_classes_are_any_datasets_of_their_number():
    assert run.same_classes(run.unnamed(2), ("cat", "dog"))
    assert run.same_classes(("cat", "dog"), ("cat", "dog"))
    assert not run.same_classes(("cat", "dog"), ("dog", "cat"))
    assert not run.same_classes(run.unnamed(3), ("cat", "dog"))


# --- fine-tuning ---


def start(tmp_path, config, classes=None):
    dataset = data.load(config.data)
    network = network_lib.build(config, dataset.image_shape, len(dataset.classes))
    return run.start_state(tmp_path / "new", network, config, classes or dataset.classes), network.init_state()


def digits_config(digits_dir, source, members, *overrides):
    base = [f"data.dir={digits_dir}", "model.width=0.04", f"train.init_from={source}", f"ensemble.members={members}"]
    return config_lib.load("configs/digits.py", [*base, *overrides])


def test_members_take_over_their_counterparts(members, digits_dir, tmp_path):
    (state, notes), drawn = start(tmp_path, digits_config(digits_dir, members.workdir, "seeds=2"))
    assert same(state.params, members.state.params)
    assert not same(state.params, drawn.params)
    assert same(state.opt_state, drawn.opt_state)
    assert notes == []
    with pytest.raises(UserError, match="has 2 members, this run has 3; choose a run with 3 members or with one"):
        start(tmp_path, digits_config(digits_dir, members.workdir, "seeds=3"))


def test_an_only_member_is_taken_over_by_all(members, digits_dir, tmp_path):
    main(["export", "--to", "safetensors", str(tmp_path / "net.safetensors"), "--run", str(members.workdir), "--member", "1"])
    alone = imported("safetensors", tmp_path / "net.safetensors", tmp_path)
    (state, _), _ = start(tmp_path, digits_config(digits_dir, alone.workdir, "seeds=3"))
    assert same(state.params, jax.tree.map(lambda leaf: np.stack([leaf[1]] * 3), members.state.params))


def test_other_classes_get_a_new_head(members, digits_dir, tmp_path):
    config = digits_config(digits_dir, members.workdir, "seeds=2")
    (state, notes), drawn = start(tmp_path, config, tuple("ABCDEFGHIJ"))
    assert same(state.params["fc8"], drawn.params["fc8"])
    assert same({**state.params, "fc8": 0}, {**members.state.params, "fc8": 0})
    assert notes == [f"fc8 is new: {members.workdir} has other classes (10) than this dataset (10)"]


def test_a_network_of_other_shapes_is_refused(members, digits_dir, tmp_path):
    config = digits_config(digits_dir, members.workdir, "seeds=2", "model.filters=(96,200,384,384,256)")
    with pytest.raises(UserError) as caught:
        start(tmp_path, config)
    expected = "conv2.bias has shape (10,), this run's config makes it (8,)"
    assert str(caught.value) == f"train.init_from={members.workdir}: {expected}"
    with pytest.raises(UserError, match="is not a run directory"):
        start(tmp_path, digits_config(digits_dir, tmp_path / "none", "seeds=2"))


def test_another_function_of_the_same_parameters_is_told(members, digits_dir, tmp_path):
    config = digits_config(digits_dir, members.workdir, "seeds=2", "model.pixel_scale=1", "model.dropout=0.1")
    (_, notes), _ = start(tmp_path, config)
    assert [note.split(" in ")[0] for note in notes] == ["model.pixel_scale was 70.0"]


def test_imported_weights_are_trained_in_another_directory(members):
    with pytest.raises(UserError, match=r"holds imported weights; train them in another --workdir, with --config\.train\.init_from="):
        train(members.config, members.workdir)


def test_training_starts_from_another_run(members, digits_dir, tmp_path):
    """With a rate of 0 a run ends with what it took over; one that went on from its own checkpoint needs the other no more."""
    zero = ("optimizer.learning_rate=0", "train.batch_size=40", "train.epochs=0.1", "eval.batch_size=64")
    other = shutil.copytree(members.workdir, tmp_path / "other")
    train(digits_config(digits_dir, other, "seeds=2", *zero), tmp_path / "new")
    assert same(run.load(tmp_path / "new").state.params, members.state.params)
    shutil.rmtree(other)
    train(digits_config(digits_dir, other, "seeds=2", *zero[:2], "train.epochs=0.2", zero[3]), tmp_path / "new")
    assert evaluate.predict_run(tmp_path / "new", "test")[0].log_probs.shape == (2, 360, 10)
