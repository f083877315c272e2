"""Pictures that explain what the networks of a run do. `python -m alexnet_jax.explain` makes them.

rules.py       the network with the derivatives of guided backpropagation and of the deconvnet
methods.py     (params, hyper, view, unit) -> map: gradients, Grad-CAM, occlusion, the deconvnet
pictures.py    the pictures that the networks look at
attribution.py the page of pictures: what decided an answer
units.py       the page of units: what excites them most in a whole split
maximise.py    the page of images that excite classes and filters most, made from noise
choice.py      which filters are shown
figures.py     maps as pictures, and the figures
__main__.py    the command
"""
