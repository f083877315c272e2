"""SGD with momentum and weight decay as an optax chain, in the paper's order or PyTorch's.

    paper    v <- m v - lr (g + wd w) ;  w <- w + v        (section 5 of the AlexNet paper)
    torch    b <- m b + (g + wd w) ;     w <- w - lr b     (torch.optim.SGD, optax.sgd)

`network.build` chooses the rule of a config; the train step makes the chain anew in every trace, with traced numbers:

    optimizer = make_optimizer(learning_rate=0.01, momentum=0.9, weight_decay=5e-4, rule="paper")

The two rules are the same while the learning rate is constant. When it drops tenfold, the paper's velocity keeps the old scale and decays
over the next 1 / (1 - m) steps, while PyTorch's velocity shrinks tenfold at once: under the paper's rule the first ten steps or so after
a drop are still large ones.

LARS (You, Gitman, Ginsburg 2017, arXiv 1708.03888) scales each array's step by trust |w| / |g + wd w|, which let AlexNet train on batches
of 8,192. Biases are scaled and decay like kernels, as in the authors' Caffe (github.com/borisgin/caffe) and by default in optax.lars. An
array of zeros, such as a bias that starts at 0, isn't scaled in its first step: a warm-up keeps that one small.
"""

import jax
import optax

RULES = ("paper", "torch")
BIASES = ("same", "caffe")


def make_optimizer(
    learning_rate, momentum, weight_decay, *, rule: str = "paper", bias: str = "same", lars: float = 0.0
) -> optax.GradientTransformation:
    """The chain for one member. The three numbers may be traced: the state doesn't depend on them, so a new rate costs nothing.

    `bias="caffe"`: biases learn at twice the rate (under LARS at the same one) and don't decay, as in Caffe's models and the 2012 code.
    `lars` is its trust coefficient; 0 leaves it out.

    Raises:
      ValueError: an unknown rule or bias treatment, or a trust coefficient outside [0, 1].
    """
    if rule not in RULES or bias not in BIASES:
        raise ValueError(f"optimizer.rule {rule!r}, optimizer.bias {bias!r}; known rules: {', '.join(RULES)}; biases: {', '.join(BIASES)}")
    if not 0 <= lars <= 1:
        raise ValueError(f"optimizer.lars is {lars}; it must lie between 0 and 1")
    decay = optax.add_decayed_weights(weight_decay, mask=_is_kernel if bias == "caffe" else None)
    rate = optax.scale_by_learning_rate(learning_rate)
    velocity = optax.trace(momentum)
    steps = [decay, rate, velocity] if rule == "paper" else [decay, velocity, rate]
    if lars:
        steps.insert(1, optax.scale_by_trust_ratio(trust_coefficient=lars))
    if bias == "caffe":
        steps.insert(0, optax.masked(optax.scale(2.0), _is_bias))
    return optax.chain(*steps)


def _is_bias(params):
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "bias", params)


def _is_kernel(params):
    return jax.tree.map(lambda is_bias: not is_bias, _is_bias(params))
