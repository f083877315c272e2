"""Raw images -> a dataset of fixed-size images. `python -m alexnet_jax.prepare` makes one; data.py reads it.

datasets.py       the five kinds of dataset that can be made
folders.py        where raw images come from: folders of pictures
copies.py         pictures that lie in two splits or two classes
idx.py            the IDX files of the MNIST family
imagenet.py       ILSVRC-2012 as it is downloaded, Kaggle's packing, Tiny ImageNet
devkit.py         what tells ImageNet's classes, their words and the validation labels
tars.py           tars of pictures, streamed
sources.py        TFDS, scikit-learn's digits
holdout.py        a validation split for a source that has none
records.py        raw images -> the records of a dataset
shards.py         its files: shards, the journal of a prepare that may be killed, a directory that appears at once
pixel_stats.py    exact statistics of the training pixels
workers.py        a map over worker processes
__main__.py       the command
"""
