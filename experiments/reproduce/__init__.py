"""The claims of the paper and of the study post, measured on a dataset that you have. `python -m experiments.reproduce` measures one.

setting.py     the dataset and the config on which a claim is measured, and how they differ from the paper's
figure1.py     the paper's figure 1: ReLU and tanh
sizes.py       augmentation against the number of training images
parts.py       what an ensemble gains by seeds and by orders of the images
claims.py      all other claims
__main__.py    the command
"""
