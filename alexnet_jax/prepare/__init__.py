"""Raw images -> a dataset of fixed-size images. `python -m alexnet_jax.prepare` makes one; data.py reads it.

datasets.py       the four kinds of dataset that can be made
sources.py        where raw images come from: IDX files, folders, TFDS, scikit-learn's digits
records.py        the format of a dataset, written
images.py         an image file -> pixels; the paper's resize and centre crop
pixel_stats.py    exact statistics of the training pixels
workers.py        a map over worker processes
__main__.py       the command
"""
