"""Shows why a network answers as it does: which pixels matter, or what its filters are excited by.

    python -m alexnet_jax.explain --run runs/digits photo.jpg scans/ --out why
    python -m alexnet_jax.explain --run runs/digits --split 'test[:8]' --method gradcam,occlusion --layer conv4 --out why
    python -m alexnet_jax.explain --run runs/digits --units conv1..conv5 --out units
    python -m alexnet_jax.explain --run runs/digits --maximise fc8 --out liked

The first two write a page with the maps of every picture (attribution.py), the third a page with the images of a split that excite each
filter most, beside their projections to the pixels (units.py), the last a page of images that are made to excite classes or filters
(maximise.py).
"""

import argparse

from alexnet_jax import config as config_lib
from alexnet_jax.errors import UserError, run_cli, say
from alexnet_jax.pictures import find_images


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m alexnet_jax.explain", description="Show which pixels matter to a network, or what excites it."
    )
    parser.add_argument("--run", required=True, metavar="DIR", type=config_lib.path, help="a run directory")
    parser.add_argument("images", nargs="*", metavar="IMAGES", type=config_lib.path, help="pictures, and folders with pictures")
    parser.add_argument("--out", required=True, metavar="DIR", type=config_lib.path, help="the folder for the page and its files")
    parser.add_argument("--split", help="a split of the dataset, or a slice of one, such as test[:8]; of --units: default test")
    parser.add_argument(
        "--data-dir", type=config_lib.path, metavar="DIR", help="the directory of the dataset (default: the config's data.dir)"
    )
    parser.add_argument(
        "--member", metavar="NAME_OR_INDEX", help="one network, or `ensemble`: the mean over all (default: the first network)"
    )
    parser.add_argument(
        "--step", default="last", metavar="N", help="the checkpoint: last (default), best by validation accuracy, or a step"
    )
    parser.add_argument("--note", default="", help="a line for every figure, such as `the weights are random`")
    maps = parser.add_argument_group("maps of pictures")
    maps.add_argument("--method", default="all", metavar="NAMES", help="methods, with commas between them (default: all)")
    maps.add_argument("--layer", default="conv5", help="the layer of gradcam and deconvnet (default: conv5)")
    maps.add_argument(
        "--filter", type=config_lib.count, metavar="I", help="of --layer, for deconvnet (default: that with the largest output)"
    )
    maps.add_argument("--target", metavar="CLASS", help="the class to explain, a name or an index (default: the answer)")
    maps.add_argument("--window", type=config_lib.count, default=0, metavar="PIXELS", help="of occlusion (default: a seventh of the view)")
    maps.add_argument("--stride", type=config_lib.count, default=0, metavar="PIXELS", help="of occlusion (default: half a window)")
    units = parser.add_argument_group("units")
    units.add_argument("--units", metavar="LAYERS", help="conv3, or conv1..conv5: show what excites the filters of these layers")
    units.add_argument("--maximise", metavar="LAYERS", help="make images that excite the units of these layers; fc8 for the classes")
    units.add_argument("--filters", default="9", metavar="N", help="how many random filters of each layer, or a list: 3,17, (default: 9)")
    units.add_argument("--top", type=config_lib.positive, default=9, metavar="N", help="images for each filter (default: 9)")
    units.add_argument("--steps", type=config_lib.count, default=200, metavar="N", help="of --maximise (default: 200)")
    units.add_argument("--starts", type=config_lib.count, default=4, metavar="N", help="of --maximise: images of each unit (default: 4)")
    units.add_argument("--seed", type=config_lib.count, default=0, metavar="N", help="of --maximise: of its noise (default: 0)")
    units.add_argument(
        "--batch-size", type=config_lib.positive, metavar="N", help="images in a batch (default: the config's eval.batch_size)"
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    args = _parser().parse_intermixed_args(argv)
    if args.units and args.maximise:
        raise UserError("--units and --maximise make different pages; give one of them")
    if (args.units or args.maximise) and args.images:
        raise UserError(
            f"{'--units looks for its images in --split' if args.units else '--maximise makes its images'}; leave the pictures out"
        )
    if not (args.units or args.maximise or args.images or args.split):
        raise UserError("nothing to explain; give pictures, or --split 'test[:8]', or --units conv1..conv5")
    if args.images and args.split:
        raise UserError("give pictures or --split, not both")
    files = find_images(args.images) if args.images else []

    from alexnet_jax import parallel
    from alexnet_jax.explain import attribution, methods, pictures
    from alexnet_jax.subject import layer_range, open_dataset, open_networks

    if args.method != "all":
        for name in args.method.split(","):
            methods.check_method(name)
    layers, (layer, *others) = layer_range(args.units or args.maximise or "conv5"), layer_range(args.layer)
    if others:
        raise UserError(f"--layer {args.layer} is a range; choose one layer")
    parallel.start()
    networks = open_networks(args.run, args.member, args.step)
    if args.units:
        from alexnet_jax.explain import units

        wanted = units.Asked(layers, args.filters, args.top, args.split or "test", args.batch_size, args.note)
        path = units.write_page(networks, open_dataset(networks, args.data_dir), wanted, args.out)
    elif args.maximise:
        from alexnet_jax.explain import maximise

        settings = maximise.Settings(steps=args.steps, starts=args.starts)
        path = maximise.write_page(networks, maximise.Asked(layers, args.filters, args.seed, settings, args.note), args.out)
    else:
        asked = attribution.Asked(
            tuple(methods.METHODS) if args.method == "all" else tuple(args.method.split(",")),
            layer,
            None if args.target is None else networks.target(args.target),
            args.filter,
            methods.Settings(window=args.window, stride=args.stride),
            args.note,
        )
        shown = pictures.from_files(networks, files) if files else pictures.from_split(networks, args.split, args.data_dir)
        path = attribution.write_page(networks, shown, asked, args.out)
    say(f"written to {path}")


if __name__ == "__main__":
    run_cli(main)
