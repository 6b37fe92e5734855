"""Layers with parameters, and the optimiser that trains them.

Read module.py (the tree), layers.py, flat.py (one buffer for all parameters), optim.py,
muon.py.
"""

from minddpm.nn.flat import FlatParameters
from minddpm.nn.layers import Conv2d, ConvTranspose2d, Dropout, Embedding, GroupNorm, Linear
from minddpm.nn.module import Module, ModuleList, Parameter
from minddpm.nn.muon import Muon
from minddpm.nn.optim import EMA, Adam, cooldown, warmup_lr

__all__ = [
    "EMA",
    "Adam",
    "Conv2d",
    "ConvTranspose2d",
    "Dropout",
    "Embedding",
    "FlatParameters",
    "GroupNorm",
    "Linear",
    "Module",
    "ModuleList",
    "Muon",
    "Parameter",
    "cooldown",
    "warmup_lr",
]
