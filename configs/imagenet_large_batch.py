"""The config that trains AlexNet on ImageNet in batches of 8,192 images, with LARS, a warm-up and a rate that falls as a polynomial.

It differs from configs/imagenet.py in the fields below. They are those of You, Gitman and Ginsburg 2017 (arXiv 1708.03888) and of their
solver file for AlexNet at this batch size (github.com/borisgin/caffe, models/bvlc_alexnet/solver_8K.prototxt).

    python -m alexnet_jax.train --config configs/imagenet_large_batch.py --workdir runs/large_batch

Arguments: as those of configs/imagenet.py; variant=caffe is the network of the paper's runs. Where a device has no memory for its share of
the batch, --config.train.accumulate=8 takes an eighth of it at a time.

Expected: 15,639 steps. Nobody has trained this config on ImageNet with this code yet, so time and accuracy are not measured. The paper's
top-1 accuracy with LARS is 58.7 % with batches of 512, 58.5 % of 4,096, 58.2 % of 8,192, 55.0 % of 16,384 and 46.9 % of 32,768 images;
without it, 58.8, 53.1 and 44.8 % with 512, 4,096 and 8,192.
"""

from ml_collections import ConfigDict

from configs import imagenet


def get_config(arg: str = "") -> ConfigDict:
    config = imagenet.get_config(arg)

    config.optimizer.learning_rate = 10.0  # of which LARS leaves each array `lars` times the ratio of its norm to its gradient's
    config.optimizer.lars = 1e-3
    config.optimizer.schedule = "poly"  # (1 - step / total) ^ 2
    config.optimizer.warmup_epochs = 4.0  # 626 steps; the solver file of AlexNet with batch normalisation has 600

    config.plateau.mode = "manual"  # the schedule lowers the rate, and so does a person

    config.train.batch_size = 8192
    config.train.epochs = 100.0
    config.train.log_every_steps = 10  # 156 steps in an epoch
    return config
