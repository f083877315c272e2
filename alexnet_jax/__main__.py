"""The list of commands."""

COMMANDS = """alexnet_jax: train, ablate and understand AlexNet (2012) in JAX

  python -m alexnet_jax.prepare    raw images -> a dataset: digits, idx (MNIST family), folder, tfds
  python -m alexnet_jax.train      config + dataset -> a run directory; the same command again resumes
  python -m alexnet_jax.evaluate   run directories -> exact errors, ten-crop, ensembles
  python -m alexnet_jax.predict    run directory + pictures -> labels
  python -m alexnet_jax.config     print a config, or what differs between two
  python -m experiments.report     run directories -> report.html

Each explains itself with --help. To see it work: python -m alexnet_jax.train --config configs/digits.py --workdir runs/digits"""

if __name__ == "__main__":
    print(COMMANDS)
