"""Data sets: NumPy arrays on the host, uint8 until a batch is converted for the network.

Reading order: dataset.py (what a data set is, and the pixel maps), class_names.py (their order),
sources.py (what a name or a path means). Data sets with a name: idx.py (MNIST's file format),
mnist.py (finds MNIST in a folder or the cache), download.py and fallback.py (used if neither has
MNIST), named.py, cifar.py and fetch.py (other data sets). Your own images: folder.py,
image_files.py (folders and .zip archives), image_archive.py (.npz), pixel_depth.py (more than 8
bits), fit.py (their size), decode.py and image_cache.py (many of them). For training: batching.py
(the images of each step) and prefetch.py (read from disk before it begins).
"""

from minddpm.data.batching import batch_indices
from minddpm.data.dataset import ImageDataset, to_float, to_uint8
from minddpm.data.folder import load_folder
from minddpm.data.idx import read_idx
from minddpm.data.mnist import load_mnist
from minddpm.data.sources import load_images

__all__ = [
    "ImageDataset",
    "batch_indices",
    "load_folder",
    "load_images",
    "load_mnist",
    "read_idx",
    "to_float",
    "to_uint8",
]
