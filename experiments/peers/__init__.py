"""PyTorch, as a second opinion for `parity` and as the peer of `benchmark`; needs the extra `peers`.

torch_alexnet.py    AlexNet's variants
torch_input.py      the DataLoader
torch_train.py      training, evaluation, augmentation and matrix products, to be timed
"""
