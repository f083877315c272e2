"""The network and its variants. `python -m alexnet_jax.model` prints its layers.

architecture.py  what a network may be made of, and the variants
alexnet.py       AlexNet as a Flax module
conv.py          convolution and max-pooling under a member axis
winograd.py      convolution with fewer multiplications
patches.py       convolution of few channels as one product
dense.py         the matrix product of a dense layer
bias.py          a layer's bias, whose gradient is summed in float32
lrn.py           local response normalisation
remat.py         less memory for more time: what a gradient needs is computed again
forward.py       forward passes of M networks: log-probabilities, and the sums of their errors
layers.py        the layers' shapes, parameters and FLOPs, without computing anything
__main__.py      the command: the layers of a variant, or what differs between two
"""
