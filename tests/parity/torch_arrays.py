"""Conversions between our arrays and PyTorch's: images [N, H, W, C] and [N, C, H, W]."""

import numpy as np


def to_torch(array):
    """Return a copy as a torch tensor; None stays None."""
    import torch

    return None if array is None else torch.from_numpy(np.array(array))


def nchw(images):
    """Return images [N, H, W, C] as a torch tensor [N, C, H, W]."""
    return to_torch(images).permute(0, 3, 1, 2).contiguous()


def nhwc(images):
    """Return a torch tensor [N, C, H, W] as an array [N, H, W, C]."""
    return images.detach().permute(0, 2, 3, 1).numpy()
