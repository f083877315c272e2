"""Compiles a training step for TPUs that aren't here, and says what it would take on them. `python -m experiments.scaling` runs it.

hlo.py        an optimised program's text -> what each operation costs
program.py    a config -> its training step, compiled for a topology; lowered for CUDA
estimate.py   the costs by part of the network, the time of a step, of an epoch, on more chips
__main__.py   the command
"""
