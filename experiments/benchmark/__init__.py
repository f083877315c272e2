"""Measures speed and memory, and compares them with PyTorch and with the machine's limits. `python -m experiments.benchmark` runs it.

settings.py         the settings of a measurement
measure.py          times several sides in turn, and describes the machine
ours.py             this project's side of a measurement; PyTorch's side is in experiments/peers/
table.py            prints the rows of a part as they are measured, and stores them as JSON
train.py layers.py members.py lrn.py augment.py input.py feed.py evaluate.py    the parts, with the next line
startup.py growth.py overhead.py checkpoint.py memory.py digits.py
gpu.py              tests and parts on one accelerator within some minutes, each in a process of its own
growth_figure.py    the figure of `growth`
__main__.py         the command
"""

# Part -> (its module here, what it measures)
PARTS = {
    "train": ("train", "the whole training step, compared with the machine's fastest matrix product"),
    "layers": ("layers", "each convolution and dense layer with its gradients, compared with XLA's direct convolution"),
    "members": ("members", "M members at once: our convolutions, grouped ones, a loop over members; time to compile"),
    "lrn": ("lrn", "local response normalisation compared with the memory's speed; its share of a training step"),
    "augment": ("augment", "augmentation on the device"),
    "input": ("input", "batches from a prepared dataset, raw and JPEG"),
    "feed": ("feed", "the real loop of the one-tower network fed from raw records; the step alone; the input alone"),
    "eval": ("evaluate", "evaluation; ten crops compared with one"),
    "startup": ("startup", "time from the command to the first step, without and with compiled programs; imports; --help"),
    "growth": ("growth", "time against dataset size, members and batch size, with a figure"),
    "overhead": ("overhead", "the time that the training loop adds to the compiled step"),
    "checkpoint": ("checkpoint", "a save, of which the loop waits for a part; a restore with and without checksums"),
    "memory": ("memory", "peak memory of the training process"),
    "digits": ("digits", "the training of configs/digits.py from the command to its end, and its test errors"),
    "gpu": ("gpu", "tests and the parts above on one accelerator within --minutes; only where it is named"),
}
