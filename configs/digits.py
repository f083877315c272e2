"""Seven small AlexNets at once on scikit-learn's handwritten digits: 1,797 real images of 8x8 pixels, enlarged to 28x28; no download.

    python -m alexnet_jax.train --config configs/digits.py --workdir runs/digits

Arguments: members=N networks that differ in their seed; lrn=off.

Expected: two minutes on two CPU cores. Measured on one run (AMD EPYC, 2 cores, 88 s): test error of the members 1.03 % on average,
standard deviation 0.45 over 7 seeds, and one of the 360 test images wrong for the ensemble. Without LRN it needs a tenth of this rate.
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

    config.augment.flip = 0.0  # a mirrored 2 is no 2
    config.augment.shift = 0.1
    config.augment.colour = 0.0  # grey images
    config.augment.whitening = 0.0

    config.model.width = 0.125  # 12, 32, 48, 48, 32 filters and 512 units: enough for these images, and seven of them in two minutes
    config.optimizer.learning_rate = 0.02  # the study post's 0.01 learns too, in twice the epochs that there is time for

    config.plateau.patience = 3
    config.plateau.max_drops = 2

    config.train.batch_size = 64  # 20 steps an epoch instead of 10
    config.train.epochs = 20.0
    config.train.log_every_steps = 10
    config.train.checkpoint_every_epochs = 5.0

    config.eval.batch_size = 192
    return config
