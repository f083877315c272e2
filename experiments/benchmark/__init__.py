"""How fast it is, against PyTorch and against the machine: `python -m experiments.benchmark`.

settings.py         what can be set of a measurement
measure.py          times of several sides in turn, and the machine
ours.py             this project's side; PyTorch's is experiments/peers/
table.py            a part's rows, printed as they come and kept as JSON
train.py members.py lrn.py augment.py input.py evaluate.py startup.py growth.py overhead.py memory.py    the parts, see below
growth_figure.py    the figure of `growth`
__main__.py         the command
"""

# Part -> (its module here, what it measures)
PARTS = {
    "train": ("train", "the whole training step, and its share of the machine's matrix-product rate"),
    "members": ("members", "M members at once: grouped convolutions, ours, a loop; time to compile"),
    "lrn": ("lrn", "local response normalisation against the memory's speed, and its share of a step"),
    "augment": ("augment", "augmentation on the device"),
    "input": ("input", "batches from a prepared dataset, raw and JPEG"),
    "eval": ("evaluate", "evaluation, and ten crops against ten times one"),
    "startup": ("startup", "from the command to the first step, cold and warm; imports; --help"),
    "growth": ("growth", "time against dataset size, members and batch size, with a figure"),
    "overhead": ("overhead", "what the training loop adds to the compiled step"),
    "memory": ("memory", "peak memory of the training process"),
}
