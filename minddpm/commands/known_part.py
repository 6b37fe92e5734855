"""The part of an image that inpainting knows, and the part that it fills in."""

import numpy as np

PARTS = ("top", "bottom", "left", "right", "centre")


def known_mask(H: int, W: int, missing: str) -> np.ndarray:
    """Return a mask float32 [H, W, 1]: 1 where the image is known, 0 where it is missing."""
    mask = np.ones((H, W, 1), np.float32)
    rows, columns = {
        "top": (slice(0, H // 2), slice(None)), "bottom": (slice(H // 2, None), slice(None)),
        "left": (slice(None), slice(0, W // 2)), "right": (slice(None), slice(W // 2, None)),
        "centre": (slice(H // 4, -(H // 4)), slice(W // 4, -(W // 4))),
    }[missing]  # fmt: skip
    mask[rows, columns] = 0
    return mask
