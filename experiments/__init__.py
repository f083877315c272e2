"""What is done with runs: sweeps, ablations, published claims, benchmarks.

launch/         programs -> finished runs, here or in Slurm; every command that trains uses it
sweep/          many settings, ranked by their errors
ablate/         what one factor does to the test error, with intervals
reproduce/      the paper's claims on a dataset at hand
benchmark/      how fast it is, against PyTorch
peers/          the same networks in PyTorch
report.py       the full report of a run
parity.py       every variant against PyTorch: logits and gradients
published.py    the numbers of the papers
publish.py      results of runs -> README.md and docs
"""

import alexnet_jax  # noqa: F401  which tells before anything else where a package is missing
