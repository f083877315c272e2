"""ImageNet with the study post's recipe, to the letter. Every field of a config is here, with its meaning.

The study post is IT Repository, "Advanced Techniques for CNN: (4) AlexNet", in Korean, 2020.

    python -m alexnet_jax.prepare folder --source ILSVRC2012 --name imagenet
    python -m alexnet_jax.train --config configs/imagenet.py --workdir runs/imagenet              one network
    python -m alexnet_jax.train --config configs/imagenet.py:members=7 --workdir runs/ensemble    the ensemble of seven

Arguments: members=N networks that differ in their seed; variant=NAME a network of alexnet_jax/model/alexnet.py; lrn=off.

Expected: 90 epochs are 7.6e17 floating-point operations per member. Not measured: nobody has trained this configuration on ImageNet
with this code yet. The published error of one such network is 40.7 % top-1 and 18.2 % top-5, ten views averaged.
"""

from ml_collections import ConfigDict

from alexnet_jax.config import new_config, parse_arg
from alexnet_jax.model.alexnet import model_config


def get_config(arg: str = "") -> ConfigDict:
    args = parse_arg(arg, members=1, variant="one_tower", lrn=True)
    config = new_config()

    config.data.name = "imagenet"  # a dataset that alexnet_jax.prepare made
    config.data.dir = "data"  # where prepared datasets lie
    config.data.prepare = "python -m alexnet_jax.prepare folder --source DIR --name imagenet"  # what makes it, for the error message
    config.data.train_split = "train"
    config.data.validation_split = "validation"  # what the plateau looks at
    config.data.test_split = "validation"  # ImageNet's test labels are not public
    config.data.seed = 0  # of the shuffle, the same for all members
    config.data.threads = 16  # reading and decoding at once

    # Strengths; 0 switches one off exactly. See alexnet_jax/hyper.py for their units.
    config.augment.crop = 1.0  # anywhere in the stored 256 pixels
    config.augment.flip = 0.5
    config.augment.rotation = 10.0  # degrees either way
    config.augment.shift = 0.05  # of the input size either way
    config.augment.colour = 0.1  # the paper's PCA sigma
    config.augment.whitening = 1.0  # also when evaluating

    # Architecture, dropout and LRN: see the table of variants in alexnet_jax/model/alexnet.py.
    config.model.update(model_config(args.variant))
    config.model.lrn = config.model.lrn and args.lrn

    config.optimizer.learning_rate = 1e-2
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 5e-4
    config.optimizer.rule = "paper"  # paper | torch: see alexnet_jax/optimizer.py
    config.optimizer.bias = "same"  # same | caffe: twice the rate and no decay for biases
    config.optimizer.lars = 0.0  # trust coefficient of layer-wise rates, for batches of thousands (1e-3 there); 0: off
    config.optimizer.schedule = "constant"  # constant | fixed | poly: what time alone does to the rate, see alexnet_jax/train/schedule.py
    config.optimizer.drop_epochs = (25.0, 51.0, 79.0)  # of `fixed`: the 2012 run's, times plateau.factor each
    config.optimizer.poly_power = 2.0  # of `poly`
    config.optimizer.warmup_epochs = 0.0

    # The learning rate is multiplied by `factor` when validation accuracy plateaus, for each member by itself.
    config.plateau.mode = "auto"  # auto | suggest | manual | replay:RUN, see alexnet_jax/train/rates.py
    config.plateau.patience = 5  # evaluations without an improvement
    config.plateau.min_delta = 1e-3  # of accuracy, for an improvement
    config.plateau.factor = 0.1
    config.plateau.max_drops = 3  # as the paper; a member that plateaus once more is done
    config.plateau.cooldown = 0  # evaluations after a drop that don't count

    config.ensemble.members = f"seeds={args.members}"  # also learning_rate=[.003,.01], lrn=[on,off], seeds=5
    config.ensemble.seed = 0  # of the first member

    config.train.init_from = ""  # fine-tuning: a run or imported weights to start from; where classes differ, with a new last layer
    config.train.batch_size = 128  # of all devices together
    config.train.members_per_program = 0  # that train at once, the others after them at each step; 0: up to 8
    config.train.remat = False  # compute activations again for the gradient instead of keeping them: less memory, a third more work
    config.train.epochs = 90.0  # at most: a run whose members are all done ends earlier
    config.train.log_every_steps = 50
    config.train.checkpoint_every_epochs = 0.5
    config.train.disk_patience = 10.0  # minutes for which the disk may refuse checkpoints and the log before the run stops

    config.eval.batch_size = 512  # of all devices together
    config.eval.every_epochs = 1.0
    return config.lock()  # so that a config which starts from this one can't misspell a field
