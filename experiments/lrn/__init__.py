"""LRN under the microscope: what it does in the networks of a run, and what happens without it. `python -m experiments.lrn` measures it.

measure.py     LRN's divisors in trained networks: how much they vary, and which filters inhibit which
changes.py     the errors with other constants, at once and after brief retraining
report.py      the page, the table and the answer in words
figures.py     the figures
__main__.py    the command
"""
