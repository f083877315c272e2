"""The same networks in PyTorch. `parity` checks alexnet_jax against them, `benchmark` compares its speed with theirs.

This needs the optional packages: pip install -e ".[peers]" (pillow_prepare.py needs nothing more.)

pillow_prepare.py   preparing photographs with Pillow alone
torch_alexnet.py    AlexNet's variants
torch_input.py      the DataLoader
torch_train.py      training, evaluation, augmentation and matrix products, for timing
"""
