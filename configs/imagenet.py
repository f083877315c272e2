"""The config that trains AlexNet on ImageNet with exactly the study post's recipe. It has every field of a config, with its meaning.

The study post is IT Repository, "Advanced Techniques for CNN: (4) AlexNet", in Korean, 2020.

    python -m alexnet_jax.prepare imagenet --source ILSVRC2012 --name imagenet
    python -m alexnet_jax.train --config configs/imagenet.py --workdir runs/imagenet              one network
    python -m alexnet_jax.train --config configs/imagenet.py:members=7 --workdir runs/ensemble    the ensemble of seven

Arguments: members=N networks that differ in their seed; variant=NAME a network of alexnet_jax/model/alexnet.py; lrn=off.

Expected: 90 epochs take 7.6e17 floating-point operations for each member. Nobody has trained this config on ImageNet with this code yet, so
time and accuracy are not measured. The published error of one such network is 40.7 % top-1 and 18.2 % top-5, averaged over ten views.
"""

from ml_collections import ConfigDict

from alexnet_jax.config import new_config, parse_arg
from alexnet_jax.model.architecture import model_config


def get_config(arg: str = "") -> ConfigDict:
    args = parse_arg(arg, members=1, variant="one_tower", lrn=True)
    config = new_config()

    config.data.name = "imagenet"  # a dataset that alexnet_jax.prepare has made
    config.data.dir = "data"  # the directory of the prepared datasets
    config.data.prepare = "python -m alexnet_jax.prepare imagenet --source DIR --name imagenet"  # shown if the dataset is missing
    config.data.train_split = "train"  # or a part of it: train[:2000], train[stratified:2000], see data.Dataset.source
    config.data.validation_split = "validation"  # the plateau rule uses its accuracy
    config.data.test_split = "validation"  # ImageNet's test labels are not public
    config.data.seed = 0  # of the order of the images, which is the same for all members
    config.data.threads = 16  # threads that read and decode images

    # Strengths of the augmentations; 0 switches one off exactly. See alexnet_jax/hyper.py for their units.
    config.augment.crop = 1.0  # the crop may be anywhere in the stored 256x256 pixels
    config.augment.flip = 0.5  # probability of a mirror image
    config.augment.rotation = 10.0  # at most so many degrees in each direction
    config.augment.shift = 0.05  # at most this fraction of the input size in each direction
    config.augment.colour = 0.1  # the paper's sigma of PCA colour
    config.augment.whitening = 1.0  # each image is standardised, also in evaluations
    config.augment.resampling = "auto"  # auto | gather | shear: how crop, flip, rotation and shift are computed, alexnet_jax/resample.py

    # Architecture, dropout and LRN: see the table of variants in alexnet_jax/model/alexnet.py.
    config.model.update(model_config(args.variant))
    config.model.lrn = config.model.lrn and args.lrn

    config.optimizer.learning_rate = 1e-2
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 5e-4
    config.optimizer.rule = "paper"  # paper | torch: see alexnet_jax/optimizer.py
    config.optimizer.bias = "same"  # same | caffe: twice the learning rate and no weight decay for biases
    config.optimizer.lars = 0.0  # trust coefficient of LARS for batches of thousands of images (use 1e-3 for these); 0: off
    config.optimizer.schedule = "constant"  # constant | fixed | poly: the rate as a function of the step, alexnet_jax/train/schedule.py
    config.optimizer.drop_epochs = (25.0, 51.0, 79.0)  # for `fixed`: the 2012 run's epochs; each multiplies the rate by plateau.factor
    config.optimizer.poly_power = 2.0  # for `poly`
    config.optimizer.warmup_epochs = 0.0  # the learning rate rises linearly for so many epochs

    # When the validation accuracy of a member plateaus, its learning rate is multiplied by `factor`.
    config.plateau.mode = "auto"  # auto | suggest | manual | replay:RUN, see alexnet_jax/train/rates.py
    config.plateau.patience = 5  # evaluations without an improvement
    config.plateau.min_delta = 1e-3  # the smallest increase of accuracy that is an improvement
    config.plateau.factor = 0.1
    config.plateau.max_drops = 3  # as in the paper; a member that plateaus once more is done
    config.plateau.cooldown = 0  # evaluations after a drop that the plateau rule ignores

    config.ensemble.members = f"seeds={args.members}"  # another example: learning_rate=[.003,.01], lrn=[on,off], seeds=5
    config.ensemble.seed = 0  # seed of the first member; the next members have the next seeds

    config.train.init_from = ""  # fine-tuning: start from this run or imported weights; if the classes differ, with a new last layer
    config.train.init_step = "last"  # its checkpoint: last, best by validation accuracy, or a step
    config.train.batch_size = 128  # images of a step, over all devices
    config.train.accumulate = 1  # pieces of a batch that take turns within each step: less memory; the update is that of the whole batch
    config.train.members_per_program = 0  # members that train at once; the others take turns within each step; 0: 1 on CPUs, else at most 8
    config.train.remat = False  # compute activations again for the gradient instead of storing them: less memory, a third more work
    config.train.epochs = 90.0  # at most; a run ends earlier if all its members are done
    config.train.log_every_steps = 50
    config.train.on_stall = "warn"  # warn | stop: what the run does if a member's loss stays where guessing has it
    config.train.checkpoint_every_epochs = 0.5
    config.train.disk_patience = 10.0  # minutes for which the disk may refuse checkpoints and the log before the run stops

    # What several devices share: data | members, see alexnet_jax/turns.py; empty: chosen by the numbers of members and devices
    config.parallel.split = ""

    config.eval.batch_size = 512  # images, over all devices
    config.eval.every_epochs = 1.0
    return config.lock()  # so a config that imports this one gets an error for a misspelt field
