"""Training. `python -m alexnet_jax.train` trains the members of a config.

setup.py       what is checked before a run begins: config, dataset, devices, the other processes
loop.py        the training loop
step.py        the train step: augmentation, loss, gradients, update
schedule.py    when things happen, and what time does to the learning rate
plateau.py     when validation no longer improves, the learning rate drops
rates.py       all that changes learning rates: plateaus, commands, the record of another run
inbox.py       commands and signals that reach a running run
saves.py       the run's checkpoints: which to go on from, what is under way, for how long a disk may refuse
feed.py        each batch on the devices while the step before it computes
meter.py       means of the metrics, and speed, between two lines of the log
sentinels.py   what is said of members that don't learn, of data that come too late
profile.py     a trace of some steps
diagnosis.py   one member's step computed again: which layers are not finite, which units are dead
__main__.py    the command
"""
