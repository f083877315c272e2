"""Weights of other projects <-> run directories. `python -m alexnet_jax.weights` imports and exports.

formats.py         the files of torchvision, Caffe and safetensors, StableHLO programs and ONNX graphs
pth.py             PyTorch's files, read without PyTorch
caffe.py           the protobuf messages of a .caffemodel file
onnx_graph.py      a network as an ONNX graph
matching.py        which tensors of a file are a network's
torch_layout.py    PyTorch's and Caffe's order of axes <-> this project's
__main__.py        the command
"""
