"""Raw images -> a dataset of fixed-size images. `python -m alexnet_jax.prepare` makes one; data.py reads it.

datasets.py       the four kinds of dataset that can be made
folders.py        where raw images come from: folders of pictures
idx.py            the IDX files of the MNIST family
sources.py        TFDS, scikit-learn's digits
holdout.py        a validation split for a source that has none
records.py        the format of a dataset, written
images.py         an image file -> pixels; the paper's resize and centre crop
pixel_stats.py    exact statistics of the training pixels
workers.py        a map over worker processes
__main__.py       the command
"""
