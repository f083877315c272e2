"""Ablations: what one factor does to the test error, over paired seeds. `python -m experiments.ablate` runs one.

factors.py       what can be varied, and the levels of each factor
study.py         factors of a config -> points to train; finished runs -> what each level makes of the error
comparison.py    the levels of a factor against its reference
statistics.py    paired differences, McNemar's test, Holm's correction, verdicts
lrn_range.py     how far LRN's divisor is from a constant
report.py        a study from its training to its report
files.py         a report as text, Markdown, JSON, CSV and figures
figures.py       the figures of experiments
__main__.py      the command
"""
