"""How alike are the networks of some runs? `python -m experiments.similarity` measures it.

cka.py         how alike two layers are: linear CKA, debiased, from minibatches
filters.py     the filters of two first layers, matched
diversity.py   how differently networks answer, and which pairs gain most together
compare.py     all of these for the networks of some runs
figures.py     the figures
report.py      the page, and the answer in words
__main__.py    the command
"""
