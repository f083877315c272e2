"""What is done with runs: sweeps, ablations, the paper's claims, benchmarks."""

import alexnet_jax  # noqa: F401  which tells before anything else where a package is missing
