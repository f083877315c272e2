"""The paper's claims on a dataset at hand. `python -m experiments.reproduce` measures one.

setting.py     a dataset and a scale -> what is trained, and in what that differs from the paper
figure1.py     ReLU against tanh
claims.py      all other claims
__main__.py    the command
"""
