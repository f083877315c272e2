"""Programs -> finished runs. `sweep`, `ablate` and `reproduce` train with it.

points.py       settings, packed into as few programs as they need
arguments.py    the command-line arguments of every command that trains
cost.py         the check of every program, its work, and the time that it will take
train.py        the plan in words, and what trains it
launch.py       which programs are left to train, and where
processes.py    programs in processes of this machine
slurm.py        programs as a Slurm array job
task.py         one program's training process
progress.py     how far several runs are together
results.py      what the runs have left on disk
"""
