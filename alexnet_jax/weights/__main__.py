"""Weights made elsewhere -> run directories, and members of runs -> files for elsewhere.

    python -m alexnet_jax.weights import --from torchvision alexnet.pth --workdir runs/torchvision
    python -m alexnet_jax.weights import --from caffe bvlc_reference_caffenet.caffemodel --workdir runs/caffenet --as one_tower
    python -m alexnet_jax.weights export --to safetensors alexnet.safetensors --run runs/ensemble --member 3
    python -m alexnet_jax.weights export --to onnx alexnet.onnx --run runs/ensemble

An imported network is a run of one member that has taken no step: evaluate, predict and `train --config.train.init_from` take it. Its
preprocessing comes with it: the mean and the scale of the pixels, LRN's constants, and the order of the colours in conv1.

Formats: torchvision and safetensors both ways, caffe in, stablehlo and onnx out; see formats.py.
Numbers are moved, never computed: what is imported and exported again is what it was, to the bit. Only half and double precision become
float32; the command says so, and says what else it changed or left out.
"""

import argparse
from pathlib import Path

import numpy as np

from alexnet_jax import classes
from alexnet_jax import config as config_lib
from alexnet_jax.errors import UserError, run_cli
from alexnet_jax.weights import torch_layout
from alexnet_jax.weights.formats import READERS, WRITERS, Weights, dataset_from_json, words


def as_one_tower(weights: Weights) -> Weights:
    """The same function as a network of one tower: grouped kernels become block-diagonal full ones.

    Raises:
      UserError: the study post's network differs in more than its groups, LRN's constants and the mean.
    """
    from alexnet_jax.model.architecture import contradictions, model_config

    config, dataset, params = weights
    groups = config.model.groups
    config = config.copy_and_resolve_references().unlock()
    config.model.groups = 1
    different = contradictions(config.model, model_config("one_tower"))
    constants = ("pixel_mean", "lrn_convention", "lrn_k", "lrn_alpha", "lrn_beta")  # which the study post's network may have too
    different = {field: both for field, both in different.items() if field not in constants}
    if different:
        raise UserError(f"--as one_tower: the study post's network can't be this one, which has {words(different)}")
    full = {name: {**params[name], "kernel": torch_layout.ungroup(params[name]["kernel"], groups)} for name in ("conv2", "conv4", "conv5")}
    return Weights(config.lock(), dataset, {**params, **full})


def name_classes(weights: Weights, file: Path | None) -> tuple[Weights, str]:
    """The network with its classes' names from a file, where there is one, and what they are called, in words.

    Raises:
      UserError: no file of as many names, or the network came with names.
    """
    known = weights.dataset.classes
    assumed = len(known) == classes.IMAGENET_CLASSES and known == classes.imagenet()
    if file:
        if not assumed and known != classes.unnamed(len(known)):
            raise UserError(f"--classes {file}: the network has names for its classes, as {known[0]!r}; leave it out")
        named = classes.read(file, len(known))
        record = {**weights.dataset.describe(), "classes": named, "class_words": classes.words(named)}
        return weights._replace(dataset=dataset_from_json(record)), f"named by {file}"
    if known == classes.unnamed(len(known)):
        return weights, "without names (--classes FILE gives them)"
    if assumed:
        return weights, "taken for ImageNet's in the order of their WordNet ids (--classes FILE if they are others)"
    return weights, f"named in the file: {', '.join(known[:3])}{', ...' if len(known) > 3 else ''}"


def check(origin: object, weights: Weights) -> None:
    """Refuse a network that can't answer; `origin` says in the message where it is from.

    Raises:
      UserError: one of its numbers is not finite, or it has one output alone.
    """
    for layer, leaves in weights.params.items():
        for leaf, values in leaves.items():
            if not np.isfinite(values).all():
                raise UserError(
                    f"{origin}: {layer}.{leaf} has values that are NaN or infinite in float32: it diverged; take an earlier checkpoint"
                )
    if len(weights.dataset.classes) == 1:
        raise UserError(f"{origin}: its last layer has one output; the networks here have one for each class, so two for yes and no")


def of_dataset(weights: Weights, name: str) -> Weights:
    """The network with another dataset than it came with: its images are those that evaluate, explain and the others take.

    Raises:
      UserError: no dataset can have this name.
    """
    from alexnet_jax.prepare.datasets import dataset_dir

    dataset_dir("", name)  # which knows what names there can be
    config = weights.config.copy_and_resolve_references().unlock()
    config.data.name, config.data.prepare = name, f"python -m alexnet_jax.prepare folder --source DIR --name {name}"
    return weights._replace(config=config.lock(), dataset=dataset_from_json({**weights.dataset.describe(), "name": name}))


def write_run(workdir: Path, weights: Weights) -> None:
    """Make a run directory of a network: its config.json, and a checkpoint of step 0.

    Raises:
      UserError: the directory holds a run already.
    """
    from alexnet_jax import history, run
    from alexnet_jax.checkpoint import Checkpoints, check_place

    check_place(workdir)
    if history.has_checkpoint(workdir) or history.load(workdir, missing_ok=True).events:  # else an earlier attempt was interrupted
        raise UserError(f"{workdir} holds a run already; choose another --workdir")
    _, networks = weights.networks()
    run.write_config(workdir, weights.config, weights.dataset)
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(int(networks.step), {"networks": networks}, {})
        checkpoints.wait()


def read_run(workdir: Path, member: int, step: str = "last") -> Weights:
    """A member of a run as a network of its own: the config says its hyperparameters, those that were set while it trained too.

    Raises:
      UserError: not a run, or no such member.
    """
    import jax

    from alexnet_jax import run

    loaded, record = run.load(workdir, step), run.read_config(workdir)
    names = loaded.network.member_names
    if not 0 <= member < len(names):
        raise UserError(f"{workdir} has no member {member}; its members: {', '.join(f'{i} ({name})' for i, name in enumerate(names))}")
    row = {field: values[member].item() for field, values in vars(loaded.state.hyper).items()}
    config = loaded.config.copy_and_resolve_references().unlock()
    config.ensemble.members = ", ".join(f"{field}={value!r}" for field, value in row.items())
    config.augment.whitening = row["whitening"]
    params = jax.tree.map(lambda leaf: leaf[member], loaded.state.params)
    return Weights(config.lock(), dataset_from_json(record["dataset"]), params)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m alexnet_jax.weights", description="Weights made elsewhere, and for elsewhere.")
    commands = parser.add_subparsers(dest="command", required=True)
    reader = commands.add_parser("import", help="make a run directory of a file")
    reader.add_argument("--from", dest="format", required=True, choices=READERS)
    reader.add_argument("--workdir", required=True, type=config_lib.path, metavar="DIR", help="the run directory to make")
    reader.add_argument("--as", dest="as_one_tower", choices=["one_tower"], help="rewrite CaffeNet's two towers as the study post's one")
    reader.add_argument("--classes", type=config_lib.path, metavar="FILE", help="the classes' names, in their order: one a line, or JSON")
    reader.add_argument("--dataset", metavar="NAME", help="the dataset that goes with the network (default: imagenet, or the file's)")
    reader.add_argument("--under", metavar="NAME", help="of a PyTorch file with several networks the one under this name: state_dict_ema")
    writer = commands.add_parser("export", help="write a member of a run into a file")
    writer.add_argument("--to", dest="format", required=True, choices=WRITERS)
    writer.add_argument("--run", required=True, type=config_lib.path, metavar="DIR", help="a run directory")
    writer.add_argument("--member", type=int, default=0, metavar="I", help="which network of the run (default: 0)")
    writer.add_argument(
        "--step", default="last", metavar="N", help="the checkpoint: last (default), best by validation accuracy, or a step"
    )
    for command in (reader, writer):
        command.add_argument("file", type=config_lib.path, metavar="FILE")
    args = parser.parse_args(argv)

    from alexnet_jax import parallel
    from alexnet_jax.runlog import replacing

    if args.command == "export":
        parallel.start()
        weights = read_run(args.run, args.member, args.step)
        check(f"member {args.member} of {args.run}", weights)
        with replacing(args.file) as file:
            usage = WRITERS[args.format](file, weights)
        print(f"{args.file}: member {args.member} of {args.run}; {usage}")
        return
    if not args.file.is_file():
        raise UserError(f"there is no file {args.file}")
    if args.under and args.format != "torchvision":
        raise UserError(f"--under {args.under}: only PyTorch files hold several networks; leave it out")
    parallel.start()
    weights, notes = READERS[args.format](args.file, **({"under": args.under} if args.under else {}))
    check(args.file, weights)
    weights, naming = name_classes(weights, args.classes)
    if args.dataset is not None:
        weights = of_dataset(weights, args.dataset)
    if args.as_one_tower:
        weights = as_one_tower(weights)
    write_run(args.workdir, weights)
    for note in notes:
        print(f"{args.file}: {note}")
    count = sum(leaf.size for layer in weights.params.values() for leaf in layer.values())
    print(f"{args.workdir}: {count:,} parameters, {len(weights.dataset.classes)} classes, {naming}; use it as any run")


if __name__ == "__main__":
    run_cli(main)
