"""Sweeps: many settings, each with several seeds. `python -m experiments.sweep` trains and ranks them.

grid.py        the points, from the command line or from a file
record.py      the sweep.json of a sweep's directory
ranking.py     the points ranked by their errors: text, CSV, a figure and a page
__main__.py    the command
"""
