"""Experiments with the trainings of alexnet_jax: sweeps, ablations, published claims, benchmarks.

launch/         trains the programs of an experiment, on this machine or with Slurm; every command that trains uses it
sweep/          trains many settings and ranks them by their errors
ablate/         measures the effect of one factor on the test error, with confidence intervals
reproduce/      measures the paper's claims on a dataset that you have
benchmark/      measures speed and memory, and compares them with PyTorch's
prove_resume/   a run that is killed again and again, held against an undisturbed one
peers/          the same networks in PyTorch
report/         writes the full report of a run
parity.py       compares every variant with PyTorch: logits and gradients
published.py    the numbers of the papers
evidence.py     runs the commands behind docs/results.md, the cheap ones first
verdicts.py     the table of claims with what the results say of each
publish.py      writes the results of runs into README.md and docs
probe.py        how much each layer knows of the classes
lrn/            what LRN does in trained networks
similarity/     how alike the networks of runs are
towers.py       whether the two towers specialise in colour
tiles.py        photographs -> a colour dataset
resampling.py   both forms of resampling on photographs

Each of them but peers/, launch/, published.py and verdicts.py is a command:

    python -m experiments.sweep --help
"""

import alexnet_jax  # noqa: F401  first, since it says in one line which package is missing
