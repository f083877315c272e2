"""The claims of the paper and of the study post, measured on a dataset that you have. `python -m experiments.reproduce` measures one.

setting.py     the dataset and the config on which a claim is measured, and how they differ from the paper's
figure1.py     the paper's figure 1: ReLU and tanh
claims.py      all other claims
__main__.py    the command
"""
