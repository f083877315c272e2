"""The AlexNet laboratory in JAX: train, ablate and understand AlexNet (2012)."""

import sys

from alexnet_jax.errors import require_installed

if sys.argv[:1] == ["-m"]:  # so Python has it while it looks for the module of `python -m`: before a command imports what may be missing
    require_installed()
