"""Configs of trainings: one file is one experiment. `python -m alexnet_jax.train --config configs/digits.py` trains one.

imagenet.py         every field of a config, with its meaning; the other files import it and change some fields
digits.py           scikit-learn's handwritten digits, without a download
fashion_mnist.py    Fashion-MNIST
"""
