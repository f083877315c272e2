"""The AlexNet laboratory in JAX: train, ablate and understand AlexNet (2012)."""
