"""Weights from and for elsewhere: what is read computes the same, what goes round comes back to the bit, wrong files are refused."""

import json
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
from safetensors import safe_open

from alexnet_jax import classes, data, evaluate, run
from alexnet_jax import config as config_lib
from alexnet_jax import network as network_lib
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.errors import UserError
from alexnet_jax.hyper import Hyper
from alexnet_jax.images import Resize, load_image
from alexnet_jax.model import architecture
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.forward import make_log_probs
from alexnet_jax.report.network import network_sections
from alexnet_jax.report.write import write_report
from alexnet_jax.runlog import RunLog
from alexnet_jax.state import Networks
from alexnet_jax.subject import open_dataset, open_networks
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
        monkeypatch.setitem(architecture.VARIANTS, variant, {**architecture.VARIANTS[variant], "width": WIDTH})


@pytest.fixture
def stored():
    """Two photographs as `prepare` stores them: uint8 (2, 256, 256, 3)."""
    return np.stack([Resize(256)(load_image(photo)) for photo in PHOTOS])


def random_tensors(variant, names, count=10, seed=0):
    """Random tensors in the layout of PyTorch and Caffe, under a format's names."""
    rng = np.random.default_rng(seed)
    net = AlexNet(architecture.architecture(architecture.model_config(variant)), count)
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


def caffemodel(tensors, order, old, last="fc8"):
    """A file's bytes: layers with blobs, and among them the pooling and normalising ones in the order of a variant; the last called so."""
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
        called = (last if name == "fc8" else name).encode()
        blobs = [tensors[key] for key in (f"{name}.blobs[0]", f"{name}.blobs[1]") if key in tensors]
        if old:
            layer = content(4, called) + number(5, old_kind) + b"".join(content(6, blob(array, old)) for array in blobs)
            net += content(2, content(2, b"data") + layer)  # with a field that the reader doesn't know
        else:
            layer = content(1, called) + content(2, new_kind) + b"".join(content(7, blob(array, old)) for array in blobs)
            net += content(100, layer)
    return net


@pytest.fixture
def caffe_file(tmp_path):
    def make(variant="caffenet", old=True, **changes):
        tensors = random_tensors(variant, CAFFE_NAMES) | changes.pop("tensors", {})
        for name in changes.pop("without", ()):
            del tensors[name]
        order, last = {"caffenet": "after_pool", "caffe": "before_pool"}[variant], changes.pop("last", "fc8")
        (tmp_path / "net.caffemodel").write_bytes(caffemodel(tensors, order, old, last))
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
    expected = architecture.model_config(variant)
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


def test_caffenet_as_one_tower(caffe_file, tmp_path, stored):
    file, _ = caffe_file("caffenet")
    grouped = imported("caffe", file, tmp_path)
    main(["import", "--from", "caffe", str(file), "--workdir", str(tmp_path / "seed"), "--as", "one_tower"])
    full = run.load(tmp_path / "seed")
    differing = {field for field, value in full.config.model.items() if value != architecture.model_config("one_tower")[field]}
    assert differing == {"lrn_convention", "lrn_k", "init", "pixel_mean"}
    kernel = full.state.params["conv2"]["kernel"][0]
    half_in, half_out = kernel.shape[2] // 2, kernel.shape[3] // 2
    assert not kernel[:, :, :half_in, half_out:].any()
    assert not kernel[:, :, half_in:, :half_out].any()
    assert np.array_equal(kernel[:, :, :half_in, :half_out], grouped.state.params["conv2"]["kernel"][0, ..., :half_out])
    expected = log_probs(grouped, stored)
    np.testing.assert_allclose(log_probs(full, stored), expected, atol=1e-5 * np.abs(expected).max())


def test_bvlc_alexnet_is_not_one_tower(caffe_file, tmp_path):
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
        (
            {"without": ["fc8.blobs[0]", "fc8.blobs[1]"]},
            "another network: it has no fc8.blobs[0] of shape (1000, 256); it has no fc8.blobs[1] of shape (1000,)",
        ),
        (
            {"last": "score", "tensors": {"fc7.blobs[0]": np.zeros((9, 256))}},
            "another network: fc7.blobs[0] has shape (9, 256), this network's has (256, 256)",
        ),
        ({"without": ["conv5.blobs[1]"]}, "another network: it has no conv5.blobs[1] of shape (16,)"),
    ],
)
@pytest.mark.parametrize("old", [True, False], ids=["old form", "new form"])
def test_another_caffemodel(changes, message, old, caffe_file, tmp_path):
    file, _ = caffe_file("caffenet", old, **changes)
    assert message in refusal(["import", "--from", "caffe", file, "--workdir", tmp_path / "x"])
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("old", [True, False], ids=["old form", "new form"])
@pytest.mark.parametrize("name", ["fc8_flickr", "score"])
def test_caffe_fine_tuned(name, old, caffe_file, tmp_path, capsys):
    """Its last dense layer is the last one, whatever it is called; with 1000 classes too these aren't ImageNet's."""
    rng = np.random.default_rng(1)
    head = {"fc8.blobs[0]": rng.normal(size=(1000, 256)), "fc8.blobs[1]": rng.normal(size=1000)}
    file, tensors = caffe_file("caffenet", old, last=name, tensors=head)
    loaded = imported("caffe", file, tmp_path)
    assert f"the last layer is {name}: it is fc8 here" in capsys.readouterr().out
    assert np.array_equal(loaded.state.params["fc8"]["kernel"][0], tensors["fc8.blobs[0]"].T.astype(np.float32))
    assert loaded.classes == classes.unnamed(1000)


def test_caffes_classes_are_imagenets_in_their_order(caffe_file, tmp_path, capsys):
    head = {"fc8.blobs[0]": np.zeros((1000, 256)), "fc8.blobs[1]": np.zeros(1000)}
    loaded = imported("caffe", caffe_file("caffe", tensors=head)[0], tmp_path)
    assert (loaded.classes[0], loaded.classes[65], loaded.classes[-1]) == ("n01440764", "n01751748", "n15075141")
    shown = data.class_labels(run.read_config(tmp_path / "from-caffe")["dataset"])
    assert [shown[i] for i in (65, 278)] == ["n01751748: sea snake", "n02119789: kit fox, Vulpes macrotis"]
    assert [shown[i] for i in (134, 517)] == ["n02012849: crane (bird)", "n03126707: crane (machine)"]
    assert "1000 classes, taken for ImageNet's in the order of their WordNet ids" in capsys.readouterr().out


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


# --- runs of this project ---


@pytest.fixture(scope="module")
def members(tmp_path_factory, digits_dir):
    """A run of two members on the digits that has taken no step; they differ in seed, LRN and whitening."""
    overrides = [f"data.dir={digits_dir}", "model.width=0.04", "eval.batch_size=64"]
    overrides.append("ensemble.members=seed=5; seed=6, lrn=off, whitening=0.5, learning_rate=0.003")
    config = config_lib.load("configs/digits.py", overrides)
    return make_run(tmp_path_factory.mktemp("run") / "members", config)


def make_run(workdir, config, order=None):
    """A run that has taken no step; with `order` the outputs of its networks are in this one."""
    dataset = data.load(config.data)
    network = network_lib.build(config, dataset.image_shape, len(dataset.classes))
    run.write_config(workdir, config, dataset)
    with Checkpoints(workdir) as checkpoints:
        state = network.init_state()
        if order is not None:
            params = {**state.params, "fc8": jax.tree.map(lambda leaf: leaf[..., order], state.params["fc8"])}
            state = state.replace(params=params)
        checkpoints.save(0, {"networks": Networks(state.step, state.params, network.hyper)}, {"evaluated": 0, "commands": 0})
    return run.load(workdir)


@pytest.mark.parametrize("member", [0, 1])
def test_safetensors_there_and_back(member, members, tmp_path):
    """A member comes back as a run of its own, with its own hyperparameters, and gives the same answers."""
    file = tmp_path / "net.safetensors"
    main(["export", "--to", "safetensors", str(file), "--run", str(members.workdir), "--member", str(member)])
    with safe_open(file, framework="numpy") as opened:
        assert json.loads(opened.metadata()["classes"]) == list(members.classes)
    back = imported("safetensors", file, tmp_path)
    assert back.network.hyper.members == 1
    assert same(back.state.params, jax.tree.map(lambda leaf: leaf[member : member + 1], members.state.params))
    assert same(back.state.hyper, jax.tree.map(lambda leaf: leaf[member : member + 1], members.state.hyper))
    assert back.config.model.to_dict() == members.config.model.to_dict()
    assert (back.classes, back.network.member_names) == (members.classes, [f"seed={5 + member}"])
    assert same(back.stats, members.stats)
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1)).astype(np.uint8)
    assert np.array_equal(log_probs(back, images)[0], log_probs(members, images)[member])


@pytest.mark.slow
def test_imported_weights_have_a_report(members, tmp_path):
    """Of the network alone; what needs the dataset is left out where their classes aren't its, by name."""
    file = tmp_path / "net.safetensors"
    main(["export", "--to", "safetensors", str(file), "--run", str(members.workdir)])
    for name, named in (("run", "4598761230"), ("others", "ABCDEFGHIJ")):
        main(["import", "--from", "safetensors", str(file), "--workdir", str(tmp_path / name)])
        record = run.read_config(tmp_path / name)
        record["dataset"]["classes"] = list(named)
        (tmp_path / name / "config.json").write_text(json.dumps(record))
    page = write_report(tmp_path / "run", network_sections(tmp_path / "run")).read_text()
    titles = re.findall(r"<h2[^>]*>(.*?)</h2>", page)
    assert titles == [
        *("First-layer filters", "Augmentation", "Confusions", "Most confident mistakes", "Predictions", "Nearest neighbours"),
        *("Calibration", "Activations", "Config", "Environment"),
    ]
    assert "These weights were not trained here." in page
    assert (tmp_path / "run" / "figures" / "filters.png").exists()
    page = write_report(tmp_path / "others", network_sections(tmp_path / "others")).read_text()
    assert "knows other classes than the dataset digits, &#39;A&#39; and not &#39;0&#39;" in page


def test_what_was_set_while_it_trained_is_exported(members, tmp_path):
    changed = make_run(tmp_path / "run", members.config)
    networks = changed.state.replace(step=np.int32(1), hyper=changed.state.hyper.replace(lrn_alpha=np.float32([0.5, 0.25])))
    with Checkpoints(changed.workdir) as checkpoints:
        checkpoints.save(1, {"networks": networks}, {"evaluated": 0, "commands": 1})
    main(["export", "--to", "safetensors", str(tmp_path / "net"), "--run", str(changed.workdir), "--member", "1"])
    assert imported("safetensors", tmp_path / "net", tmp_path / "back").state.hyper.lrn_alpha == [0.25]


def test_a_network_that_diverged_is_not_exported(members, tmp_path):
    broken = make_run(tmp_path / "run", members.config)
    params = jax.tree.map(np.array, broken.state.params)
    params["conv2"]["bias"][1, 3] = np.nan
    with Checkpoints(broken.workdir) as checkpoints:
        networks = broken.state.replace(step=np.int32(1), params=params)
        checkpoints.save(1, {"networks": networks}, {"evaluated": 0, "commands": 0})
    arguments = ["export", "--to", "safetensors", tmp_path / "net", "--run", broken.workdir, "--member"]
    diverged = f"member 1 of {broken.workdir}: conv2.bias has values that are NaN or infinite in float32: it diverged; take an earlier"
    assert refusal([*arguments, 1]).startswith(diverged)
    assert not (tmp_path / "net").exists()
    main([str(word) for word in [*arguments, 0]])
    main([str(word) for word in [*arguments, 1, "--step", 0]])


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
    assert f"{file} holds another network: conv2.kernel has shape (5, 5, 4, 7), this network's has (5, 5, 4, 10)" in refusal(arguments)
    weights.params["conv2"]["kernel"] = np.zeros((5, 5, 4, 10), np.float64)
    formats.write_safetensors(file, weights)
    assert "conv2.kernel is float64, it must be float32" in refusal(arguments)
    (length,) = struct.unpack("<Q", whole[:8])
    header = json.loads(whole[8 : 8 + length])
    record = json.loads(header["__metadata__"]["alexnet_jax"])
    del record["config"]["model"]["groups"]
    text = json.dumps({**header, "__metadata__": {"alexnet_jax": json.dumps(record)}}).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + whole[8 + length :])
    assert "but not as this command writes it; export it again" in refusal(arguments)
    assert set(SAFETENSORS_NAMES.values()) == set(header) - {"__metadata__"}
    assert not (tmp_path / "x").exists()


def test_what_needs_pytorch_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it weren't installed
    with pytest.raises(UserError, match=r'PyTorch.* not installed.*pip install -e "\.\[peers\]"'):
        parity.main([])


def test_arguments_that_make_no_sense(caffe_file, members, tmp_path):
    file, _ = caffe_file()
    assert "there is no file" in refusal(["import", "--from", "caffe", tmp_path / "none", "--workdir", tmp_path / "x"])
    assert "holds a run already" in refusal(["import", "--from", "caffe", file, "--workdir", members.workdir])
    with RunLog(tmp_path / "begun", 10) as log:  # a run that trains and hasn't saved yet
        log.event("warning", 0, message="the first step is compiled")
    assert "holds a run already" in refusal(["import", "--from", "caffe", file, "--workdir", tmp_path / "begun"])
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
    assert refusal(arguments) == f"{tmp_path / 'names.txt'} names 2 classes, the network has 10"


@pytest.mark.parametrize("name", ["no such/name", "", "../up", "7scans"])
def test_a_name_that_no_dataset_can_have(name, caffe_file, tmp_path):
    arguments = ["import", "--from", "caffe", caffe_file()[0], "--workdir", tmp_path / "x", "--dataset", name]
    assert refusal(arguments) == f"dataset name {name!r}: use letters, digits and underscores, a letter first"
    assert not (tmp_path / "x").exists()


def test_names_that_came_with_a_network_stay(members, tmp_path):
    """Another order of theirs would give other answers; evaluate refuses them too."""
    (tmp_path / "names.txt").write_text("\n".join("1023456789"))
    main(["export", "--to", "safetensors", str(tmp_path / "net"), "--run", str(members.workdir)])
    arguments = ["import", "--from", "safetensors", tmp_path / "net", "--workdir", tmp_path / "x", "--classes", tmp_path / "names.txt"]
    assert refusal(arguments) == f"--classes {tmp_path / 'names.txt'}: the network has names for its classes, as '0'; leave it out"
    assert not (tmp_path / "x").exists()


def test_names_that_are_assumed_give_way(caffe_file, tmp_path):
    """A thousand classes are taken for ImageNet's."""
    file, _ = caffe_file(tensors={"fc8.blobs[0]": np.zeros((1000, 256)), "fc8.blobs[1]": np.zeros(1000)})
    (tmp_path / "names.txt").write_text("\n".join(f"place {i}" for i in range(1000)))
    assert imported("caffe", file, tmp_path, "--classes", str(tmp_path / "names.txt")).classes[3] == "place 3"


def test_imported_weights_look_at_a_dataset_of_ones_own(members, digits_dir, tmp_path):
    main(["export", "--to", "safetensors", str(tmp_path / "net"), "--run", str(members.workdir)])
    loaded = imported("safetensors", tmp_path / "net", tmp_path, "--dataset", "scans")
    record = run.read_config(loaded.workdir)
    assert record["dataset"]["name"] == loaded.config.data.name == "scans"
    (tmp_path / "scans").symlink_to(digits_dir / "digits")
    assert open_dataset(open_networks(loaded.workdir, None, "last"), tmp_path).name == "scans"
    with pytest.raises(UserError, match="prepare folder --source DIR --name scans --data-dir data"):
        open_dataset(open_networks(loaded.workdir, None, "last"), Path("data"))


# --- fine-tuning ---


def of_classes(notes):
    """The notes without those on constants in which the members of the fixture differ from those that take over from them."""
    other = [note for note in notes if " of the members was " not in note]
    assert [note.split()[0] for note in notes if note not in other] == ["lrn_k", "lrn_alpha", "whitening"]
    return other


def start(tmp_path, config, names=None):
    dataset = data.load(config.data)
    network = network_lib.build(config, dataset.image_shape, len(dataset.classes))
    return run.start_state(tmp_path / "new", network, config, names or dataset.classes), network.init_state()


def digits_config(digits_dir, source, members, *overrides):
    base = [f"data.dir={digits_dir}", "model.width=0.04", f"train.init_from={source}", f"ensemble.members={members}"]
    return config_lib.load("configs/digits.py", [*base, *overrides])


def test_members_take_over_their_counterparts(members, digits_dir, tmp_path):
    (state, notes), drawn = start(tmp_path, digits_config(digits_dir, members.workdir, "seeds=2"))
    assert same(state.params, members.state.params)
    assert not same(state.params, drawn.params)
    assert same(state.opt_state, drawn.opt_state)
    assert of_classes(notes) == []
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
    assert of_classes(notes) == [f"fc8 is new: {members.workdir} has other classes (10) than this dataset (10)"]


def test_the_head_follows_the_datasets_order(members, digits_dir, tmp_path):
    """Fine-tuned on the same classes in another order it answers the same of each; nameless classes are matched with none."""
    config = digits_config(digits_dir, members.workdir, "seeds=2")
    (state, notes), _ = start(tmp_path, config, tuple("9876543210"))
    assert same(state.params["fc8"], jax.tree.map(lambda leaf: leaf[..., ::-1], members.state.params["fc8"]))
    assert of_classes(notes) == []
    record = json.loads((shutil.copytree(members.workdir, tmp_path / "nameless") / "config.json").read_text())
    record["dataset"]["classes"] = classes.unnamed(10)
    (tmp_path / "nameless" / "config.json").write_text(json.dumps(record))
    (state, notes), drawn = start(tmp_path, digits_config(digits_dir, tmp_path / "nameless", "seeds=2"))
    assert same(state.params["fc8"], drawn.params["fc8"])
    assert of_classes(notes) == [
        f"fc8 is new: {tmp_path / 'nameless'} has no names for its classes; import it again with --classes FILE to keep its fc8"
    ]


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
    assert [note.split(" in ")[0] for note in of_classes(notes)] == ["model.pixel_scale was 70.0"]


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
