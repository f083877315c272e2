"""Weights of other projects <-> run directories. `python -m alexnet_jax.weights` imports and exports.

formats.py         the files of torchvision, Caffe and safetensors, and StableHLO programs
caffe.py           the protobuf messages of a .caffemodel file
torch_layout.py    PyTorch's and Caffe's order of axes <-> this project's
__main__.py        the command
"""
