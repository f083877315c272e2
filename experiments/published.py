"""Published numbers. `ablate`, `reproduce` and `publish` print them beside the measured ones.

    published.ENSEMBLES[7].top1    # 36.7: seven networks' top-1 error in percent

Errors are in percent, differences in percentage points. "The paper" is Krizhevsky, Sutskever and Hinton, "ImageNet classification with deep
convolutional neural networks", NIPS 2012.
"""

from typing import NamedTuple


class Errors(NamedTuple):
    """Top-1 and top-5 error in percent, and where they were published."""

    top1: float
    top5: float
    source: str


TEN_VIEWS = Errors(37.5, 17.0, "the paper, table 1: ILSVRC-2010 test, one network, ten views")
CENTRE = Errors(39.0, 18.3, "the paper, section 6: the same network without averaging over ten views")
ENSEMBLES = {
    1: Errors(40.7, 18.2, "the paper, table 2: ILSVRC-2012 validation"),
    5: Errors(38.1, 16.4, "the paper, table 2: ILSVRC-2012 validation"),
    7: Errors(36.7, 15.4, "the paper, table 2: ILSVRC-2012 validation, two of the seven pre-trained on the 2011 release"),
}
FIGURE1 = (0.25, 6.0, "the paper, figure 1: a four-layer network on CIFAR-10; ReLUs reach 25 % training error six times faster than tanh")

# Factor of `experiments.ablate` -> what was published about it.
CLAIMS = {
    "lrn": (
        "LRN lowers top-1 and top-5 error by 1.4 and 1.2 points (the paper, section 3.3); it was later shown to have little effect (the "
        "study post); 47.0 % accuracy with it, 47.1 % without (caffenet-benchmark)"
    ),
    "augment": (
        "heavy augmentation makes more data from few samples (the study post); without it there is substantial overfitting "
        "(the paper, section 4.1)"
    ),
    "any_augment": "heavy augmentation makes more data from few samples (the study post)",
    "drops": "the rate was divided by ten by hand, three times, when the validation error stopped improving (the paper, section 5)",
    "dropout": (
        "without dropout of 0.5 in fc6 and fc7 there is substantial overfitting; it about doubles the iterations (the paper, section 4.2)"
    ),
    "activation": "ReLUs reach 25 % training error on CIFAR-10 six times faster than tanh (the paper, figure 1)",
    "overlap": "overlapping pooling lowers top-1 and top-5 error by 0.4 and 0.3 points (the paper, section 3.4)",
    "order": (
        "the paper and bvlc_alexnet normalise before the pool, the study post and CaffeNet after it; bvlc_alexnet has 42.9 % top-1 "
        "error, CaffeNet 42.6 % (Caffe's model files)"
    ),
    "colour": "PCA colour lowers top-1 error by over 1 point (the paper, section 4.1)",
    "precision": (
        "training in bfloat16 gives the results of float32 in as many steps and with the same hyperparameters (Kalamkar et al. 2019, "
        "arXiv 1905.12322)"
    ),
    "ensemble": "one network 40.7 / 18.2 %, five 38.1 / 16.4 %: top-5 errors cut by 9.9 % (the paper, table 2)",
}
