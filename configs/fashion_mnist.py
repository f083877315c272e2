"""The small AlexNet on Fashion-MNIST, 70,000 real images.

python -m alexnet_jax.prepare idx --source DIR --name fashion_mnist
python -m alexnet_jax.train --config configs/fashion_mnist.py --workdir runs/fashion_mnist
"""

from ml_collections import ConfigDict

from alexnet_jax.config import parse_arg
from configs import imagenet


def get_config(arg: str = "") -> ConfigDict:
    args = parse_arg(arg, members=1, lrn=True)
    config = imagenet.get_config(f"members={args.members},variant=small,lrn={args.lrn}")

    config.data.name = "fashion_mnist"
    config.data.prepare = "python -m alexnet_jax.prepare idx --source DIR --name fashion_mnist"
    config.data.test_split = "test"
    config.data.threads = 2

    config.augment.rotation = 0.0
    config.augment.shift = 0.05
    config.augment.colour = 0.0
    config.augment.whitening = 0.0

    config.optimizer.learning_rate = 0.02

    config.plateau.patience = 2
    config.plateau.min_delta = 1e-3
    config.plateau.max_drops = 2

    config.train.batch_size = 64
    config.train.epochs = 16.0
    config.train.log_every_steps = 50
    config.train.checkpoint_every_epochs = 1.0

    config.eval.batch_size = 500
    return config
