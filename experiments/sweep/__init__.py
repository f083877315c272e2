"""Sweeps: many settings, each with several seeds. `python -m experiments.sweep` trains and ranks them.

grid.py        reads the points from the command line or from a file
record.py      writes and reads sweep.json, the record of a sweep
ranking.py     ranks the points by their errors: text, CSV, a figure and an HTML page
__main__.py    the command
"""
