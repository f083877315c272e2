# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # AlexNet, one step at a time
#
# This notebook takes AlexNet (2012) apart: its layers, the way of one batch through them, local response normalisation (LRN), dropout, a
# training in which *you* drop the learning rate, an ensemble, and what the filters have learnt. It uses the functions of `alexnet_jax`,
# so what you see here is what the training command runs.
#
# The networks are small and learn scikit-learn's 1,797 handwritten digits, which need no download. Nothing here was trained on ImageNet.
# All cells together take a few minutes on two CPU cores. Run them from the first to the last; then change something, where a text says
# **Change**, and run from that cell on.
#
# ## Setup
#
# On your own computer, `pip install jupyterlab` into the environment in which you installed the repository, and start it by
# `jupyter lab docs/alexnet.ipynb`. In Colab, first clone the repository or upload it into a folder of `/content`; the next cell finds it
# there and installs it. If Colab then asks you to restart the session, do so and run the cell again. Where `alexnet_jax` is installed
# already, the notebook needs no repository beside it.

# %%
import importlib.util
import subprocess
import sys
from pathlib import Path

here = Path.cwd()
needed = ("pyproject.toml", "alexnet_jax", "configs/digits.py")
found = [folder for folder in (here, *here.parents, *here.glob("*/")) if all((folder / name).exists() for name in needed)]
if found:
    sys.path.insert(0, str(found[0]))  # what is installed below would be found only after a restart
    if "google.colab" in sys.modules:
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "-e", str(found[0])], check=True)
elif not importlib.util.find_spec("alexnet_jax"):
    raise FileNotFoundError("The repository is neither here nor installed: clone it or upload it first, then run this cell again.")

# %%
import tempfile
from contextlib import redirect_stderr

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display

import configs
from alexnet_jax import config as config_lib
from alexnet_jax import control, data, history, parallel
from alexnet_jax import network as network_lib
from alexnet_jax.augment import augment
from alexnet_jax.explain import figures, units
from alexnet_jax.model.__main__ import table
from alexnet_jax.model.alexnet import dropout
from alexnet_jax.model.architecture import architecture, model_config
from alexnet_jax.model.forward import layer_outputs
from alexnet_jax.model.layers import receptive_fields
from alexnet_jax.model.lrn import lrn
from alexnet_jax.report import charts, curves, pictures, words
from alexnet_jax.state import AUGMENT, DROPOUT, example_keys
from alexnet_jax.subject import open_networks
from alexnet_jax.train.loop import train

# %matplotlib inline
parallel.start()
plt.rcParams["figure.dpi"] = 80
print(*parallel.describe())

# %% [markdown]
# The notebook keeps the digits and the run in a temporary folder.
#
# **Change** `FOLDER` to `Path("runs/lecture")` to keep them. A run of another config needs another `RUN`, such as `FOLDER / "run2"`.

# %%
FOLDER = Path(tempfile.mkdtemp())
RUN = FOLDER / "run"

# %% [markdown]
# ## 1. The network
#
# Five convolutions, three max-pools, LRN after the first two pools, three dense layers. A MAC is one multiplication and one addition.
# Look at where the parameters are (the dense layers) and where the work is (the convolutions).
#
# **Change** `one_tower` to `paper` (the two towers of 2012), `caffenet`, `caffe`, `owt` or `small`. Or change a field: `section.lrn =
# False` before `architecture`. `model_config("one_tower")` lists the fields.

# %%
section = model_config("one_tower")
full_size = architecture(section)
print(table(full_size, classes=1000, channels=3))

# %% [markdown]
# A unit of a deep layer depends on many pixels, its receptive field. Two units side by side look at places that are one stride apart.

# %%
for name, field in receptive_fields(full_size, channels=3).items():
    print(f"{name:6} sees {field.size:3} x {field.size:3} pixels, stride {field.stride}")

# %% [markdown]
# ## 2. The way of one batch
#
# A config names everything that can vary. This one is the repository's config for the digits, with a few fields changed: four networks
# (members) instead of seven, and learning rates that only you drop (`manual`).
#
# **Change** the list: `print(config)` shows all fields. A misspelt name gets the nearest right one as its answer.

# %%
CONFIG = f"{Path(configs.__file__).with_name('digits.py')}:members=4"
CHANGES = [f"data.dir={FOLDER}/data", "plateau.mode=manual", "train.log_every_steps=20"]
config = config_lib.load(CONFIG, CHANGES)
dataset = data.load(config.data)
network = network_lib.build(config, dataset.image_shape, len(dataset.classes))
arch = network.model.arch
print(table(arch, len(dataset.classes), channels=1))

# %% [markdown]
# `train_batches` gives batches without end. Which images are in a batch depends only on the seed and on `position`, the number of images
# taken so far. So a run that was stopped goes on with exactly the batch that comes next.
#
# **Change** `seed` or `position`.

# %%
batch = next(data.train_batches(dataset.source("train"), batch_size=64, seed=0, position=0, threads=1))
for name, values in batch.items():
    print(f"{name:6} {values.dtype!s:7} {values.shape}")

# %% [markdown]
# `augment` makes a new view of an image each time: here a rotation and a shift. The first column is the stored image.
#
# **Change** a strength: `hyper.replace(rotation=45.0)`. The digits are not mirrored; what would `flip=0.5` do to a 2?

# %%
hyper = jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], network.hyper)  # of the first member
hyper = hyper.replace(rotation=10.0)


def view(key, image):
    return augment(key, image, hyper, dataset.stats, arch.input_size)


draws = [example_keys(hyper.draws, AUGMENT, batch["index"][:3] + 1000 * draw) for draw in range(6)]
views = np.stack([jax.vmap(view)(keys, batch["image"][:3]) for keys in draws], axis=1)
shown = np.clip(np.round(views + dataset.stats.mean), 0, 255).astype(np.uint8)
display(pictures.augmentations_figure(batch["image"][:3], shown))

# %% [markdown]
# Now the batch goes through the network with its first, random weights. The outputs are those after the activation; ReLU makes about half
# of them zero. The last layer's ten numbers are the logits of the classes.

# %%
state = network.init_state()
params = jax.tree.map(lambda leaf: leaf[0], state.params)  # leaves are (members, ...)
views = jax.vmap(view)(example_keys(hyper.draws, AUGMENT, batch["index"]), batch["image"])
outputs = jax.jit(lambda params, views: layer_outputs(network.model, params, views, hyper))(params, views)
for name, x in {"input": views, **outputs}.items():
    print(f"{name:6} {x.shape!s:18} mean {x.mean():6.2f}  std {x.std():6.2f}  zeros {(x == 0).mean():4.0%}")

# %% [markdown]
# With the last layer's small weights, every class gets nearly the same probability. So the loss starts near ln(10).

# %%
log_probs = jax.nn.log_softmax(outputs["fc8"])
loss = -jnp.take_along_axis(log_probs, batch["label"][:, None], axis=1).mean()
print(f"loss {loss:.3f}, ln(10) = {np.log(10):.3f}")

# %% [markdown]
# ## 3. Local response normalisation
#
# Section 3.3 of the paper: the output $a_i$ of filter $i$ is divided by what its $n$ neighbouring filters put out at the same place,
#
# $$b_i = \frac{a_i}{\left(k + \alpha \sum_{|j - i| \le n/2} a_j^2\right)^\beta}, \qquad k = 2,\ n = 5,\ \alpha = 10^{-4},\ \beta = 0.75.$$
#
# Below, filter 8 puts out 50 and four neighbours put out more and more: they silence it.
#
# **Change** a constant, or which filters are the neighbours: with `size=5`, does filter 11 matter to filter 8?

# %%
strengths = np.linspace(0, 300, 61)
activations = np.zeros((len(strengths), 16), np.float32)
activations[:, [6, 7, 9, 10]] = strengths[:, None]
activations[:, 8] = 50

figure, axes = plt.subplots(figsize=(6, 3))
for alpha in (1e-5, 1e-4, 1e-3):
    axes.plot(strengths, lrn(activations, k=2.0, alpha=alpha, beta=0.75, size=5)[:, 8], label=f"alpha = {alpha:g}")
axes.set(xlabel="output of each of the four neighbours", ylabel="filter 8 after LRN", ylim=(0, None))
axes.legend()
plt.show()

# %% [markdown]
# Does LRN do that in a real network, or does it only divide by the constant $k^\beta$? The network keeps what goes into each LRN and what
# comes out. In the histogram, 0 % is the constant; further right, neighbours have silenced more.
#
# **Change** `lrn_alpha`, as in `hyper.replace(lrn_alpha=1e-6)`. Run this cell again after the training, with the `params` of section 7.


# %%
def inputs_and_outputs_of_lrn(params, views, hyper):
    """[(before, after) of the first LRN, of the second]"""
    _, kept = network.model.apply({"params": params}, views, hyper, mutable="intermediates")
    return kept["intermediates"].get("lrn", ())  # none with `model.lrn=False`


figure, axes = plt.subplots(figsize=(6, 3))
for number, (before, after) in enumerate(inputs_and_outputs_of_lrn(params, views, hyper), start=1):
    active = before > 0
    share = after[active] / before[active] * hyper.lrn_k**hyper.lrn_beta  # 1: only the constant
    axes.hist(100 * (1 - np.asarray(share)), bins=np.arange(0, 101, 2), density=True, histtype="step", linewidth=2, label=f"norm{number}")
axes.set(xlabel="an active unit is smaller than with the constant alone, by %", yticks=[])
axes.legend()
plt.show()

# %% [markdown]
# ## 4. Dropout
#
# In training, each unit of fc6 and fc7 is set to zero with probability 0.5, and the others are doubled, so that the mean stays. In an
# evaluation nothing is dropped. Each image (row) has its own mask; it depends only on the member's seed and the image's place in the run.
#
# **Change** the rate, or use the same index for all rows: `index = np.zeros(16, np.uint32)`.

# %%
rate, index = 0.5, np.arange(16, dtype=np.uint32)
ones = jnp.ones((16, arch.units))
dropped = dropout(ones, rate, example_keys(hyper.draws, DROPOUT, index), layer=0)
print(f"values {np.unique(dropped)}, mean {dropped.mean():.3f}, set to zero: {(dropped == 0).mean():.1%}")

figure, axes = plt.subplots(figsize=(6, 1.8))
axes.imshow(dropped[:, :64], cmap="gray")
axes.set(xlabel="the first 64 units of fc6 (white: kept)", ylabel="image")
plt.show()

# %% [markdown]
# ## 5. A training, and a drop by hand
#
# Four members train at once; they differ in their seed. `train` writes everything into the folder `RUN`. Here it ends after eight epochs,
# so that you can look. (The square button interrupts a training: it saves and stops. The same cell goes on.)
#
# **Change** the number of epochs, or the learning rate: add `"optimizer.learning_rate=.002"` to `CHANGES`, and take another `RUN`.


# %%
def train_until(epochs):
    longer = config_lib.load(CONFIG, [*CHANGES, f"train.epochs={epochs}"])
    with redirect_stderr(sys.stdout):
        train(longer, RUN)


train_until(epochs=8)

# %%
past = history.load(RUN)
display(curves.curves_figure(past))

# %% [markdown]
# The authors of 2012 divided the learning rate by ten by hand, when the validation error had stopped improving. Now you do it. A command
# waits in the run's folder until the run goes on, and takes effect at its next step. In a terminal, the same is done to a training that
# is running by `python -m alexnet_jax.control RUN drop`.
#
# **Change** the factor, or drop one network alone with `member=0`. What happens if you drop too early?

# %%
sent = control.send(RUN, "drop", factor=0.1)
train_until(epochs=12)

# %% [markdown]
# The triangles are your drops. What did the training loss do at that step? What did the validation error do?

# %%
past = history.load(RUN)
display(curves.curves_figure(past))

# %% [markdown]
# ## 6. The ensemble
#
# The networks make different mistakes, so the mean of their probabilities is often right where one of them is wrong. On these digits the
# differences are a few of 360 test images: another seed gives other numbers.
#
# **Change** the number of members, in both places of `members=4`, and take another `RUN`.

# %%
print(words.results_table(past))
display(charts.ensemble_curve_figure(past.test))

# %% [markdown]
# ## 7. What the filters have learnt
#
# The filters of conv1 in the first network, trained: 5 x 5 weights each, bright for positive and dark for negative ones.
#
# **Change** `member`. Do two networks learn the same filters? Compare with random weights: `state.params["conv1"]["kernel"][0]`.

# %%
member = "0"
subject = open_networks(RUN, member, step="last")
params, hyper = subject.first
display(pictures.filters_figure(params["conv1"]["kernel"]))

# %% [markdown]
# The weights of deeper layers can't be looked at like this. The deconvnet of Zeiler and Fergus (2014) shows instead what excites a
# filter: the nine test images in which it puts out most, cut to its receptive field (left), and what in each of them did it, sent back to
# the pixels (right). They are noisy: after so short a training, the random weights of the start still show.
#
# **Change** `layer` to conv1, conv3, conv4 or conv5, or the numbers of the filters.

# %%
layer, filters = "conv2", np.array([0, 5, 10, 15, 20, 25])
asked = units.Asked([layer], filters="", top=9, split="test")
strongest = units.search(subject, dataset, asked, {layer: filters})[layer]
seen, projected = units.project(subject, dataset.source("test"), layer, filters, strongest, receptive_fields(arch, 1)[layer])
display(figures.units_figure(filters, seen, projected, f"{layer} of {subject.who}"))

# %% [markdown]
# ## What to try next
#
# - **Without LRN.** Add `"model.lrn=False"` and `"optimizer.learning_rate=.002"` to `CHANGES`, with another `RUN`. Without LRN, the
#   network needs a smaller learning rate.
# - **Tanh in place of ReLU.** `"model.activation=tanh"`. Which learns faster? (Figure 1 of the paper. The deconvnet needs ReLU.)
# - **The rule instead of your hand.** `"plateau.mode=auto"` with 20 epochs: when does it drop?
# - **A question with error bars.** `python -m experiments.ablate` changes one thing at a time over several seeds;
#   [results.md](results.md) shows what it found, and [understanding.md](understanding.md) what else one can look at.
