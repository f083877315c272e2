"""Ablations: the effect of one factor on the test error, measured over paired seeds. `python -m experiments.ablate` runs one.

factors.py       the factors, and the levels of each factor
study.py         turns factors into points to train, and finished runs into comparisons
comparison.py    compares the levels of a factor with its reference level
statistics.py    paired differences, McNemar's test, Holm's correction, verdicts
lrn_range.py     measures how much LRN's divisor varies
report.py        trains a study and reports it
files.py         writes a report as text, Markdown, JSON, CSV and figures
figures.py       the figures of ablations and of `reproduce`
__main__.py      the command
"""
