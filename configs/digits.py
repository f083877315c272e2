"""Seven small AlexNets on scikit-learn's handwritten digits: no download.

python -m alexnet_jax.train --config configs/digits.py --workdir runs/digits
"""

from ml_collections import ConfigDict

from alexnet_jax.config import parse_arg
from configs import imagenet


def get_config(arg: str = "") -> ConfigDict:
    args = parse_arg(arg, members=7, lrn=True)
    config = imagenet.get_config(f"members={args.members},variant=small,lrn={args.lrn}")

    config.data.name = "digits"
    config.data.prepare = "python -m alexnet_jax.prepare digits"
    config.data.test_split = "test"
    config.data.threads = 2

    config.augment.flip = 0.0
    config.augment.shift = 0.1
    config.augment.colour = 0.0
    config.augment.whitening = 0.0

    config.model.width = 0.125
    config.optimizer.learning_rate = 0.02

    config.plateau.patience = 3
    config.plateau.max_drops = 2

    config.train.batch_size = 64
    config.train.epochs = 30.0
    config.train.log_every_steps = 10
    config.train.checkpoint_every_epochs = 5.0

    config.eval.batch_size = 192
    return config
