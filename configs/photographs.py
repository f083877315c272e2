"""The config that trains a small AlexNet of two towers on tiles of colour photographs: it asks which photograph a tile was cut from.

    python -m experiments.tiles photos/ --out tiles
    python -m alexnet_jax.prepare folder --source tiles --name photographs --size 40
    python -m alexnet_jax.train --config configs/photographs.py --workdir runs/photographs

Arguments: members=N networks that differ in their seed; variant=caffenet, caffe or paper, which have two towers, or one_tower; lrn=off.

The first convolution has 48 filters of 7x7 pixels, large enough to show stripes and colours as in the paper's Figure 3.
"""

from ml_collections import ConfigDict

from alexnet_jax.config import parse_arg
from configs import imagenet


def get_config(arg: str = "") -> ConfigDict:
    args = parse_arg(arg, members=4, variant="caffenet", lrn=True)
    config = imagenet.get_config(f"members={args.members},variant={args.variant},lrn={args.lrn}")

    config.data.name = "photographs"
    config.data.prepare = "python -m alexnet_jax.prepare folder --source tiles --name photographs --size 40"
    config.data.test_split = "test"
    config.data.threads = 2

    config.augment.rotation = 0.0
    config.augment.shift = 0.0  # the crop moves the picture: 32 of the stored 40 pixels
    config.augment.whitening = 0.0  # it would make noise of the tiles of an empty sky

    config.model.input_size = 32
    config.model.filters = (48, 64, 96, 96, 64)
    config.model.dense = 256
    config.model.stem_kernel = 7
    config.model.stem_stride = 2
    config.model.stem_padding = (3, 3)
    config.model.init = "scaled"
    config.model.positive_bias = 0.0
    config.model.pixel_mean = ()
    config.model.pixel_scale = 70.0

    config.optimizer.learning_rate = 0.015
    config.optimizer.schedule = "poly"
    config.optimizer.poly_power = 1.0
    config.plateau.mode = "manual"

    config.train.batch_size = 32
    config.train.epochs = 8.0
    config.train.log_every_steps = 50
    config.train.checkpoint_every_epochs = 2.0

    config.eval.batch_size = 500
    return config
