"""Data sets: NumPy arrays on the host, uint8 until a batch is converted for the network.

Reading order: dataset.py (what a data set is, and the pixel maps), class_names.py (their order),
idx.py (MNIST's file format), mnist.py (finds MNIST in a folder or the cache), download.py and
fallback.py (used if neither has MNIST), folder.py (your own images), pixel_depth.py (more than 8
bits), batching.py (the images of each training step).
"""

from minddpm.data.batching import batch_indices
from minddpm.data.dataset import ImageDataset, to_float, to_uint8
from minddpm.data.folder import load_folder
from minddpm.data.idx import read_idx
from minddpm.data.mnist import load_mnist

__all__ = [
    "ImageDataset",
    "batch_indices",
    "load_folder",
    "load_mnist",
    "read_idx",
    "to_float",
    "to_uint8",
]
