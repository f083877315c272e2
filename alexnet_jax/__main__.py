"""Prints the list of the project's commands.

python -m alexnet_jax
"""

COMMANDS = """alexnet_jax: train, ablate and understand AlexNet (2012) in JAX

  python -m alexnet_jax.prepare    raw images -> a dataset: digits, idx (MNIST family), folder, imagenet, tfds
  python -m alexnet_jax.train      config + dataset -> a run directory; the same command again resumes
  python -m alexnet_jax.control    commands to a run that trains: drop the learning rate, set, save, stop
  python -m alexnet_jax.evaluate   run directories -> exact errors, ten-crop, ensembles
  python -m alexnet_jax.predict    run directory + pictures -> labels
  python -m alexnet_jax.explain    run directory + pictures -> which pixels matter; filters -> what excites them
  python -m alexnet_jax.features   run directory -> what its layers put out for a split, as safetensors or npz
  python -m alexnet_jax.weights    torchvision, Caffe, safetensors -> a run directory, and back
  python -m alexnet_jax.model      the layers of a variant, or the differences between two
  python -m alexnet_jax.config     a config with all its fields, or the differences between two
  python -m experiments.sweep      a grid of settings -> runs, here or in Slurm -> a table by validation error
  python -m experiments.ablate     the effect of one factor on the test error, over paired seeds, with intervals
  python -m experiments.probe      classifiers on the features of each layer: error by depth
  python -m experiments.similarity  how alike networks are: their layers, first filters and answers
  python -m experiments.towers     how selective first filters are, and whether two towers specialise in colour
  python -m experiments.tiles      photographs -> tiles for prepare folder: a colour dataset without a download
  python -m experiments.lrn        what LRN does in trained networks, and what happens without it
  python -m experiments.reproduce  published results next to results measured on your dataset
  python -m experiments.report     run directories -> report.html
  python -m experiments.publish    results of runs and ablations -> README.md and docs/results.md
  python -m experiments.prove_resume  a run killed again and again -> what differs from one that wasn't
  python -m experiments.parity     every variant compared with an independent PyTorch network
  python -m experiments.benchmark  speed and memory of each part, next to the same part in PyTorch
  python -m experiments.scaling    the training step compiled for TPUs that aren't here -> time, memory and traffic there

Each command has --help. A first run: python -m alexnet_jax.train --config configs/digits.py --workdir runs/digits"""

if __name__ == "__main__":
    print(COMMANDS)
