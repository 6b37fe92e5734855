"""The variational bound of a model on a set of digits, in bits/dim and in its parts."""

from typing import Any

import numpy as np
from tqdm import tqdm

from minddpm import backend
from minddpm.autodiff import no_grad
from minddpm.data import ImageDataset, to_float
from minddpm.diffusion import GaussianDiffusion
from minddpm.diffusion.guidance import classes
from minddpm.generate import told
from minddpm.models import UNet2D


def bits_per_dim(
    unet: UNet2D,
    diffusion: GaussianDiffusion,
    data: ImageDataset,
    images: int,
    draws: int | None,
    batch_size: int = 125,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Means over the first `images` of the data, for JSON: bits_per_dim, L_T, L_between, L_0.

    draws: of t for each image (unbiased, with a standard error); None: the exact sum over all t.
    A class-conditional model is told the labels.
    """
    rows: list[np.ndarray] = []
    starts = range(0, images, batch_size)
    with no_grad(), backend.kernels.constant_weights():
        for first in tqdm(starts, unit="batch", desc="bits/dim"):
            chosen = slice(first, min(first + batch_size, images))
            x0 = backend.xp.asarray(to_float(data.images[chosen]))
            model = told(unet, data.labels[chosen] if classes(unet) else None)
            if draws is None:
                whole = diffusion.bits_per_dim(model, x0, seed, first)
                decoder = whole.terms[:, 0]
            else:
                whole = diffusion.estimate_bits_per_dim(model, x0, draws, seed, first)
                decoder = whole.decoder
            rows.append(np.stack([whole.total, whole.prior, decoder]))
    total, prior, decoder = np.concatenate(rows, axis=1)
    parts = {
        "bits_per_dim": total, "L_T": prior, "L_between": total - prior - decoder, "L_0": decoder
    }  # fmt: skip
    common = {
        "n": images, "test": data.source, "weights": "EMA", "seed": seed,
        "draws": "every t" if draws is None else draws,
    }  # fmt: skip
    return {
        name: {
            "value": float(values.mean()),
            "standard_error": float(values.std(ddof=1) / np.sqrt(images)) if images > 1 else None,
            **common,
        }
        for name, values in parts.items()
    }
