"""PyTorch's files: every form in which a network is saved comes in, and nothing in a file is ever run."""

import argparse
import io
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path
from unittest import mock

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from alexnet_jax import predict
from alexnet_jax.errors import UserError
from alexnet_jax.model import architecture
from alexnet_jax.weights import pth
from alexnet_jax.weights.__main__ import main
from alexnet_jax.weights.formats import TORCHVISION_NAMES
from tests.test_weights import PHOTOS, WIDTH, imported, log_probs, narrow, random_tensors, refusal, stored  # noqa: F401

KINDS = {"float32": "Float", "float16": "Half", "bfloat16": "BFloat16", "float64": "Double", "int64": "Long", "uint8": "Byte"}


# --- torch.save by hand: a pickle that puts tensors together, and storages ---


class View:
    """A tensor that is a view of another array; the rest is what PyTorch says of it behind its hooks."""

    def __init__(self, base, offset, shape, strides, *rest):
        self.base, self.offset, self.shape, self.strides, self.rest = base, offset, shape, strides, rest


class Parameter:
    def __init__(self, array):
        self.array = array


class OldParameter(Parameter):
    """As PyTorch 0.1 to 0.3 pickled them, torchvision's first files among them."""


class Saver(pickle.Pickler):
    """Pickles arrays as PyTorch does its tensors; `storages` are their numbers."""

    def __init__(self, file, torch, legacy=False):
        super().__init__(file, protocol=2)
        self.torch, self.legacy, self.storages = torch, legacy, []

    def reducer_override(self, obj):
        if isinstance(obj, OldParameter):
            return self.torch.nn.parameter.Parameter, (obj.array,), (True, False, OrderedDict())
        if isinstance(obj, Parameter):
            return self.torch._utils._rebuild_parameter, (obj.array, True, OrderedDict())
        if isinstance(obj, np.ndarray):
            obj = View(obj, 0, obj.shape, tuple(step // obj.itemsize for step in obj.strides))
        if isinstance(obj, View):
            what = (Numbers(obj.base), obj.offset, obj.shape, obj.strides, False, OrderedDict(), *obj.rest)
            return self.torch._utils._rebuild_tensor_v2, what
        return NotImplemented

    def persistent_id(self, obj):
        if not isinstance(obj, Numbers):
            return None
        known = [i for i, base in enumerate(self.storages) if base is obj.base]
        key = known[0] if known else len(self.storages)
        self.storages += [] if known else [obj.base]
        kind = getattr(self.torch, KINDS[obj.base.dtype.name] + "Storage")
        return ("storage", kind, str(key), "cpu", obj.base.size, *([None] if self.legacy else []))


class Numbers:
    def __init__(self, base):
        self.base = base


def fake_torch():
    """Modules that lend their names to a pickle."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in ("_rebuild_tensor_v2", "_rebuild_parameter"):
        exec(f"def {name}(): ...", utils.__dict__)
    for kind in KINDS.values():
        setattr(torch, f"{kind}Storage", type(f"{kind}Storage", (), {"__module__": "torch"}))
    torch._utils, torch.nn = utils, types.ModuleType("torch.nn")
    torch.nn.parameter = types.ModuleType("torch.nn.parameter")
    exec("def Parameter(): ...", torch.nn.parameter.__dict__)
    modules = (torch, utils, torch.nn, torch.nn.parameter)
    return mock.patch.dict(sys.modules, {module.__name__: module for module in modules}), torch


def numbers(array, order):
    raw = np.ascontiguousarray(array.ravel(order="K")).view(f"u{array.itemsize}")
    return (raw if order == sys.byteorder else raw.byteswap()).tobytes()


def save(path, tree, form="zip", order="little"):
    """torch.save(tree, path), of arrays."""
    tree_file, (patch, torch) = io.BytesIO(), fake_torch()
    with patch:
        saver = Saver(tree_file, torch, form == "legacy")
        saver.dump(tree)
    if form == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("net/data.pkl", tree_file.getvalue())
            archive.writestr("net/byteorder", order)
            for key, base in enumerate(saver.storages):
                archive.writestr(f"net/data/{key}", numbers(base, order))
        return path
    head = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": order == "little", "type_sizes": {}}]
    parts = [*(pickle.dumps(part, 2) for part in head), tree_file.getvalue(), pickle.dumps([str(i) for i in range(len(saver.storages))], 2)]
    parts += [base.size.to_bytes(8, order) + numbers(base, order) for base in saver.storages]
    path.write_bytes(b"".join(parts))
    return path


# --- what is read ---


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_tensors_come_back(form, order, tmp_path):
    """All types, views at an offset, transposed, spread out, scalars, empty ones; plain values beside them."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=24).astype(np.float32)
    tree = {
        "whole": base.reshape(4, 6),
        "parameter": Parameter(base),
        "old": OldParameter(base),
        "part": View(base, 6, (2, 3), (6, 2)),
        "spread": View(base, 1, (3, 2), (0, 1)),
        "turned": rng.normal(size=(3, 5)).T,
        "scalar": np.array(7),
        "empty": np.zeros((0, 3), np.float32),
        "half": [np.float16([1.5, -2]), np.array([3, 0.5], ml_dtypes.bfloat16), np.uint8([255])],
        "settings": argparse.Namespace(lr=0.1, path=Path("x")),
        "epoch": 90,
    }
    read = pth.read(save(tmp_path / "net.pth", tree, form, order))
    assert np.array_equal(read["whole"].array(), tree["whole"])
    assert np.array_equal(read["parameter"].array(), base)
    assert np.array_equal(read["old"].array(), base)
    assert np.array_equal(read["part"].array(), base[6:].reshape(3, 6)[:2, :6:2])
    assert np.array_equal(read["spread"].array(), [base[1:3]] * 3)
    assert np.array_equal(read["turned"].array(), tree["turned"])
    assert (read["scalar"].array(), read["empty"].array().shape, read["epoch"]) == (7, (0, 3), 90)
    for found, expected in zip(read["half"], tree["half"], strict=True):
        assert found.dtype == expected.dtype
        assert np.array_equal(found.array(), expected)


@pytest.fixture
def tensors():
    return random_tensors("owt", TORCHVISION_NAMES)


def prefixed(tensors, prefix):
    return {prefix + name: array for name, array in tensors.items()}


def parallel_features(tensors):
    return {name.replace("features.", "features.module."): array for name, array in tensors.items()}


FORMS = {
    "alone": (lambda t: t, []),
    "parameters": (lambda t: {name: Parameter(array) for name, array in t.items()}, []),
    "pytorch/examples": (
        lambda t: {"epoch": 90, "arch": "alexnet", "state_dict": parallel_features(t), "optimizer": {"state": {0: {"m": np.zeros(3)}}}},
        [
            "whose names begin with state_dict.\n",
            "taken out of the tensors' names, as a wrapper's: module.\n",
            "left out: 1 other tensor, under optimizer",
        ],
    ),
    "model": (lambda t: {"model": t, "best": 0.5}, ["begin with model.\n"]),
    "model_state_dict": (lambda t: {"model_state_dict": t}, ["begin with model_state_dict.\n"]),
    "DataParallel": (lambda t: prefixed(t, "module."), ["begin with module.\n"]),
    "compiled in DistributedDataParallel": (lambda t: {"state_dict": prefixed(t, "module._orig_mod.")}, ["state_dict.module._orig_mod.\n"]),
    "Lightning": (
        lambda t: {"state_dict": prefixed(t, "model.") | {"accuracy.total": np.array(3)}, "pytorch-lightning_version": "2.5"},
        ["begin with state_dict.model.\n", "left out: 1 other tensor, under state_dict"],
    ),
    "any name": (lambda t: prefixed(t, "net.backbone."), ["begin with net.backbone.\n"]),
    "one under two names": (lambda t: {"state_dict": t, "model": dict(t)}, ["begin with state_dict.\n"]),
    "in parts": (
        lambda t: {
            part: {name.removeprefix(f"{part}."): array for name, array in t.items() if name.startswith(part)}
            for part in ("features", "classifier")
        },
        [],
    ),
    "in a list": (lambda t: [90, t], ["begin with 1.\n"]),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form(form, tensors, tmp_path, capsys, monkeypatch):
    """The same network comes of each, without PyTorch, and what was stripped or left out is said."""
    monkeypatch.setitem(sys.modules, "torch", None)
    make, notes = FORMS[form]
    loaded = imported("torchvision", save(tmp_path / "net.pth", make(tensors)), tmp_path)
    said = capsys.readouterr().out
    assert all(note in said for note in notes)
    assert len(said.splitlines()) == len(notes) + 1
    params = loaded.state.params
    assert np.array_equal(params["conv2"]["kernel"][0], tensors["features.3.weight"].transpose(2, 3, 1, 0))
    assert np.array_equal(params["fc8"]["kernel"][0], tensors["classifier.6.weight"].T)
    assert loaded.config.model.to_dict() == architecture.model_config("owt").to_dict()
    np.testing.assert_allclose(loaded.stats.mean, np.float32([0.485, 0.456, 0.406]) * 255, rtol=1e-6)
    np.testing.assert_allclose(loaded.config.model.pixel_scale, np.array([0.229, 0.224, 0.225]) * 255)


def test_safetensors_with_torchvisions_names(tensors, tmp_path, capsys):
    """As networks are shared on hubs: no pickle, the same names."""
    file, arguments = tmp_path / "model.safetensors", ["import", "--from", "torchvision", tmp_path / "model.safetensors"]
    half = {name: array.astype(ml_dtypes.bfloat16) for name, array in prefixed(tensors, "model.").items()}
    save_file(half | {"step": np.array(3)}, file, {"format": "pt"})
    loaded = imported("torchvision", file, tmp_path)
    said = capsys.readouterr().out
    assert "names begin with model.\n" in said
    assert "left out: 1 other tensor, under step" in said
    assert "converted to float32 from bfloat16" in said
    expected = half["model.classifier.6.weight"].T.astype(np.float32)
    assert np.array_equal(loaded.state.params["fc8"]["kernel"][0], expected)
    assert "is imported with --from torchvision" in refusal(["import", "--from", "safetensors", file, "--workdir", tmp_path / "x"])
    main(["export", "--to", "safetensors", str(file), "--run", str(tmp_path / "from-torchvision")])
    assert "own safetensors file; import it with --from safetensors" in refusal([*arguments, "--workdir", tmp_path / "x"])
    file.write_bytes(file.read_bytes()[:-10])
    assert "not a safetensors file, or not a whole one" in refusal([*arguments, "--workdir", tmp_path / "x"])
    assert not (tmp_path / "x").exists()


def test_an_average_beside_it_is_asked_about(tensors, tmp_path):
    average = {name: array / 2 for name, array in tensors.items()}
    file = save(tmp_path / "net.pth", {"state_dict": tensors, "state_dict_ema": prefixed(average, "module.")})
    arguments = ["import", "--from", "torchvision", file, "--workdir", tmp_path / "x"]
    expected = "holds 2 networks that fit, under state_dict and state_dict_ema.module; say which with --under state_dict"
    assert refusal(arguments).endswith(expected)
    loaded = imported("torchvision", file, tmp_path, "--under", "state_dict_ema.module")
    assert np.array_equal(loaded.state.params["fc8"]["bias"][0], average["classifier.6.bias"])
    assert "--under ema: " in refusal([*arguments, "--under", "ema"])
    file = save(tmp_path / "net.pth", tensors | prefixed(average, "ema."))
    assert refusal(arguments).endswith("under . and ema; say which with --under .")
    loaded = imported("torchvision", file, tmp_path / "top", "--under", ".")
    assert np.array_equal(loaded.state.params["fc8"]["bias"][0], tensors["classifier.6.bias"])


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64"])
def test_other_floats_are_converted_and_it_is_said(kind, tensors, tmp_path, capsys):
    others = {name: array.astype(kind) for name, array in tensors.items()}
    loaded = imported("torchvision", save(tmp_path / "net.pth", others), tmp_path)
    assert f"converted to float32 from {kind}" in capsys.readouterr().out
    expected = others["classifier.4.weight"].T.astype(np.float32)
    assert loaded.state.params["fc7"]["kernel"].dtype == np.float32
    assert np.array_equal(loaded.state.params["fc7"]["kernel"][0], expected)


def without(tensors, *names):
    return {name: array for name, array in tensors.items() if name not in names}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t | {"features.0.weight": np.zeros((4, 3, 3, 3), np.float32)},
            "another network: features.0.weight has shape (4, 3, 3, 3), this network's has (4, 3, 11, 11)",
        ),
        (
            lambda t: t | {"features.12.weight": np.zeros(3, np.float32)},
            "another network: features.12.weight of shape (3,) has no place in this network",
        ),
        (lambda t: without(t, "features.3.bias"), "another network: it has no features.3.bias of shape (12,)"),
        (lambda t: without(t, "classifier.6.bias"), "another network: it has no classifier.6.bias of shape (10,)"),
        (
            lambda t: {"model": without(t, "features.3.bias") | {"feat.3.bias": t["features.3.bias"]}},
            "another network (under model): it has no features.3.bias of shape (12,), but feat.3.bias of shape (12,)",
        ),
        (
            lambda t: {"a": without(t, "features.3.bias", "features.0.bias"), "b": without(t, "features.6.bias")},
            "another network (under b): it has no features.6.bias of shape (24,)",
        ),
        (
            lambda t: {"conv1.weight": np.zeros((64, 3, 7, 7), np.float32), "fc.bias": np.zeros(10, np.float32)},
            "another network: it has no features.0.weight of shape (4, 3, 11, 11); it has no features.0.bias of shape (4,); "
            "it has no features.3.weight of shape (12, 4, 5, 5); and 15 more",
        ),
        (lambda t: {"epoch": 3, "lr": 0.1}, "holds no tensors, but epoch, lr; save the network's state_dict()"),
        (lambda t: {"\x1b[2J\n": 3}, r"holds no tensors, but \x1b[2J\n; save the network's state_dict()"),
        (lambda t: 5, "holds no tensors, but a int; save the network's state_dict()"),
        (
            lambda t: t | {"classifier.4.bias": np.full_like(t["classifier.4.bias"], np.nan)},
            "fc7.bias has values that are NaN or infinite in float32: it diverged; take an earlier checkpoint",
        ),
        (
            lambda t: t | {"classifier.6.weight": t["classifier.6.weight"][:1], "classifier.6.bias": t["classifier.6.bias"][:1]},
            "its last layer has one output; the networks here have one for each class, so two for yes and no",
        ),
        (lambda t: t | {"classifier.6.bias": np.zeros(10, np.int64)}, "holds int64 numbers where weights are wanted, which are floats"),
    ],
)
def test_another_network(change, message, tensors, tmp_path):
    """What differs is named, the nearest first."""
    file = save(tmp_path / "net.pth", change(tensors))
    assert refusal(["import", "--from", "torchvision", file, "--workdir", tmp_path / "x"]).endswith(message)
    assert not (tmp_path / "x").exists()


# --- what is refused ---


class Trap:
    """Unpickled blindly, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_nothing_in_a_file_is_run(form, tensors, tmp_path):
    sprung = tmp_path / "sprung"
    pickle.loads(pickle.dumps(Trap(sprung)))
    assert sprung.exists()  # as the trap would
    sprung.unlink()
    for tree in (tensors | {"more": Trap(sprung)}, Trap(sprung), {"state_dict": tensors, "hook": print}):
        file = save(tmp_path / "net.pth", tree, form)
        message = refusal(["import", "--from", "torchvision", file, "--workdir", tmp_path / "x"])
        assert "holds more than weights, a pickled '" in message
        assert "never run here" in message
        assert "torch.save(model.state_dict(), NEW)" in message
    assert not sprung.exists()


def test_no_pth(tensors, tmp_path):
    whole = save(tmp_path / "net.pth", tensors).read_bytes()
    legacy = save(tmp_path / "net.pth", tensors, "legacy").read_bytes()
    damaged, foreign = "is damaged or not a whole PyTorch file", "is not a PyTorch file"
    cases = [(whole[:-40], damaged), (whole[:2000], damaged), (legacy[:-4], "is cut off"), (legacy[:300], damaged), (b"", foreign)]
    cases += [(b"no weights", foreign), (pickle.dumps([1, 2]), damaged), (pickle.dumps(5) * 2, "a pickle, but none that torch.save wrote")]
    for content, message in cases:
        (tmp_path / "net.pth").write_bytes(content)
        assert message in refusal(["import", "--from", "torchvision", tmp_path / "net.pth", "--workdir", tmp_path / "x"])


def rewritten(file, change):
    """A zip archive with the entries that `change` makes of its entries."""
    with zipfile.ZipFile(file) as archive:
        entries = change({name: archive.read(name) for name in archive.namelist()})
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return file


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e | {"net/data/0": e["net/data/0"][:-4]}, "its storage 0 has"),
        (lambda e: {name: data for name, data in e.items() if name != "net/data/3"}, "its storage 3 has 0 bytes"),
        (lambda e: e | {"net/byteorder": b"middle"}, "its byte order is 'middle'"),
        (lambda e: e | {"net/constants.pkl": b""}, "is a TorchScript program, which is never run here"),
        (lambda e: e | {"other/data.pkl": b""}, "it holds 2 files data.pkl"),
        (lambda e: {"photo.jpg": b""}, "it holds 0 files data.pkl"),
    ],
)
def test_a_wrong_archive(change, message, tensors, tmp_path):
    file = rewritten(save(tmp_path / "net.pth", tensors), change)
    assert message in refusal(["import", "--from", "torchvision", file, "--workdir", tmp_path / "x"])


@pytest.mark.parametrize(
    "view", [(20, (2, 3), (3, 1)), (0, (25,), (1,)), (0, (2,), (24,)), (-1, (2,), (1,)), (0, (2,), (-1,)), (0, (2,), ())]
)
def test_a_tensor_beyond_its_storage(view, tmp_path):
    file = save(tmp_path / "net.pth", {"x": View(np.zeros(24, np.float32), *view)})
    with pytest.raises(UserError, match=r"reaches beyond its storage 0 of 24 numbers|describes a tensor that is none"):
        pth.read(file)


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_a_view_of_another_sign_is_refused(form, tmp_path):
    base = np.arange(6, dtype=np.float32)
    save(tmp_path / "net", {"weight": View(base, 0, (2, 3), (3, 1), {})}, form)
    assert np.array_equal(pth.read(tmp_path / "net")["weight"].array(), base.reshape(2, 3))
    save(tmp_path / "net", {"weight": View(base, 0, (2, 3), (3, 1), {"neg": True})}, form)
    with pytest.raises(UserError, match=r"net holds a tensor with the properties \(\{'neg': True\},\); save its plain numbers"):
        pth.read(tmp_path / "net")


def test_a_tree_that_holds_itself(tensors, tmp_path):
    tree = {"state_dict": tensors}
    tree["again"] = tree
    assert imported("torchvision", save(tmp_path / "net.pth", tree), tmp_path).classes == tuple(f"class {i}" for i in range(10))


# --- and by PyTorch itself ---


def state_dict(torch, tensors):
    return {name: torch.nn.Parameter(torch.from_numpy(array)) for name, array in tensors.items()}


@pytest.mark.parametrize("new_form", [True, False], ids=["zip", "legacy"])
def test_torchvision_there_and_back(new_form, tensors, tmp_path):
    torch = pytest.importorskip("torch")
    torch.save(OrderedDict(state_dict(torch, tensors)), tmp_path / "net.pth", _use_new_zipfile_serialization=new_form)
    imported("torchvision", tmp_path / "net.pth", tmp_path)
    main(["export", "--to", "torchvision", str(tmp_path / "back.pth"), "--run", str(tmp_path / "from-torchvision")])
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert list(back) == list(tensors)
    assert all(np.array_equal(back[name].numpy(), tensors[name]) for name in tensors)


def test_a_checkpoint_and_a_module_of_pytorch(tensors, tmp_path):
    """With what optimisers and schedules leave in it; a whole module is refused."""
    torch = pytest.importorskip("torch")
    parameters = state_dict(torch, tensors)
    optimizer = torch.optim.SGD(parameters.values(), 0.1, momentum=0.9)
    sum(parameter.sum() for parameter in parameters.values()).backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 30)
    names = OrderedDict((name, parameter.detach()) for name, parameter in parameters.items())
    names._metadata = OrderedDict({"": {"version": 1}})  # as a module's state_dict has it
    names["classifier.1.bias"].said = "attributes of a tensor are left out"
    saved = {"state_dict": names, "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(), "best": torch.tensor(0.5)}
    torch.save(saved | {"args": argparse.Namespace(lr=0.1), "size": torch.Size([3]), "top": np.float64(3)}, tmp_path / "net.pth")
    loaded = imported("torchvision", tmp_path / "net.pth", tmp_path)
    assert np.array_equal(loaded.state.params["fc8"]["bias"][0], names["classifier.6.bias"].numpy())
    torch.save(torch.nn.Sequential(torch.nn.Linear(2, 2)), tmp_path / "whole.pth")
    message = refusal(["import", "--from", "torchvision", tmp_path / "whole.pth", "--workdir", tmp_path / "x"])
    assert "a pickled 'torch.nn.modules.container.Sequential': a whole module" in message


def test_torchvision_computes_what_torchvision_would(tensors, tmp_path, stored, capsys):  # noqa: F811
    """torchvision's preprocessing, [0, 1], then mean and std, in front of a PyTorch network with the file's own tensors."""
    torch = pytest.importorskip("torch")
    from experiments.peers import torch_alexnet

    network = torch_alexnet.AlexNet(torch_alexnet.VARIANTS["owt"].narrow(WIDTH), 10)
    ours = {name: f"{layer}.{'weight' if leaf == 'kernel' else 'bias'}" for (layer, leaf), name in TORCHVISION_NAMES.items()}
    network.load_state_dict({ours[name]: torch.from_numpy(array) for name, array in tensors.items()})
    pixels = torch.from_numpy(stored[:, 16:240, 16:240].transpose(0, 3, 1, 2).astype(np.float32)) / 255
    pixels = (pixels - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    with torch.no_grad():
        expected = torch.log_softmax(network(pixels), -1).numpy()
    loaded = imported("torchvision", save(tmp_path / "net.pth", tensors), tmp_path)
    np.testing.assert_allclose(log_probs(loaded, stored)[0], expected, atol=1e-4 * np.abs(expected).max())

    capsys.readouterr()
    assert predict.main(["--run", str(loaded.workdir), str(PHOTOS[0]), "--top", "1"]) == 0
    assert f"class {expected[0].argmax()}\n" in capsys.readouterr().out
