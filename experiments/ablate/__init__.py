"""Ablations: the effect of one factor on the test error, measured over paired networks. `python -m experiments.ablate` runs one.

factors.py       the factors, and the levels of each factor
study.py         turns factors into points to train
findings.py      reads the finished runs: what to train next, and how the levels compare
rates.py         the learning rates at which a level is trained, and which is the best
comparison.py    compares the levels of a factor with its reference level
statistics.py    paired differences, McNemar's test, Holm's correction, verdicts
coverage.py      a command of its own: simulates how often the intervals contain the true effect
lrn_range.py     measures how much LRN's divisor varies
report.py        trains a study and reports it
files.py         writes a report as text, Markdown, JSON, CSV and figures
figures.py       the figures of ablations and of `reproduce`
__main__.py      the command
"""
