"""The full report of each run. `python -m experiments.report` writes it.

explained.py   the sections that explain the networks: LRN, the most excited units, the most confident mistakes
__main__.py    the command
"""
