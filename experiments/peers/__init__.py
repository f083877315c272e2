"""PyTorch, as a second opinion for `parity` and as the peer of `benchmark`; needs the extra `peers`. And Pillow, which is there.

pillow_prepare.py   preparing photographs with Pillow alone
torch_alexnet.py    AlexNet's variants
torch_input.py      the DataLoader
torch_train.py      training, evaluation, augmentation and matrix products, to be timed
"""
