"""The list of commands."""

COMMANDS = """alexnet_jax: train, ablate and understand AlexNet (2012) in JAX

  python -m alexnet_jax.prepare    raw images -> a dataset: digits, idx (MNIST family), folder, tfds
  python -m alexnet_jax.train      config + dataset -> a run directory; the same command again resumes
  python -m alexnet_jax.control    a running run <- drop the learning rate, set, save, stop
  python -m alexnet_jax.evaluate   run directories -> exact errors, ten-crop, ensembles
  python -m alexnet_jax.predict    run directory + pictures -> labels
  python -m alexnet_jax.weights    torchvision, Caffe, safetensors -> a run directory, and back
  python -m alexnet_jax.model      the layers of a variant, or what differs between two
  python -m alexnet_jax.config     a config with all its fields, or what differs between two
  python -m experiments.sweep      a grid of settings -> runs, here or in Slurm -> a table by validation error
  python -m experiments.ablate     what one factor does to the test error, over paired seeds, with intervals
  python -m experiments.reproduce  published claims beside what is measured on a dataset at hand
  python -m experiments.report     run directories -> report.html
  python -m experiments.publish    results of runs and ablations -> README.md and docs/results.md
  python -m experiments.parity     every variant against an independent PyTorch network
  python -m experiments.benchmark  speed and memory, each part in turn with its PyTorch peer

Each explains itself with --help. To see it work: python -m alexnet_jax.train --config configs/digits.py --workdir runs/digits"""

if __name__ == "__main__":
    print(COMMANDS)
