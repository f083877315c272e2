"""Trains the programs of an experiment. `sweep`, `ablate` and `reproduce` use it.

A program is one training run with its members. The way from settings to results:

points.py       packs settings into as few programs as possible
arguments.py    the command-line arguments of every command that trains
cost.py         checks every program, counts its work and estimates its time
train.py        prints the plan, then trains it
launch.py       decides which programs still have to be trained, and starts them
processes.py    trains programs in processes on this machine
slurm.py        trains programs as a Slurm array job
task.py         the training process of one program
progress.py     shows the progress of several runs together
results.py      reads what the runs have written
"""
