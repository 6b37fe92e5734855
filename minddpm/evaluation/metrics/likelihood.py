"""Compute the likelihood of a model on a data set in bits/dim: the bound, its terms, the ODE."""

import math
from typing import Any

import numpy as np

from minddpm import backend, parallel
from minddpm.autodiff import no_grad
from minddpm.baselines.sampling import bound
from minddpm.baselines.vae.model import VAE
from minddpm.data import ImageDataset, to_float
from minddpm.diffusion import GaussianDiffusion
from minddpm.diffusion.forward import Model
from minddpm.diffusion.ode_likelihood import decoder_bits, uniform_bits
from minddpm.generate import conditioned
from minddpm.models import UNet2D
from minddpm.progress_bar import tqdm


def bits_per_dim(
    unet: UNet2D,
    diffusion: GaussianDiffusion,
    data: ImageDataset,
    images: int,
    draws: int | None,
    batch_size: int = 125,
    seed: int = 0,
    world: parallel.Alone | None = None,
) -> dict[str, dict[str, Any]]:
    """Return means over the first `images` of the data: bits_per_dim, L_T, L_between, L_0.

    draws: number of random t per image, for an unbiased estimate; None: the exact sum over all t.
    A class-conditional model is conditioned on the labels. world: ranks (parallel.py) of which each
    computes a part of the images; all of them call this function. The result is a JSON-ready dict.
    """
    world = world or parallel.Alone()
    mine, rows = world.part(images), [np.empty((3, 0))]
    starts = range(mine.start, mine.stop, batch_size)
    with no_grad(), backend.kernels.constant_weights():
        for first in tqdm(starts, unit="batch", desc="bits/dim", disable=world.rank > 0):
            chosen = slice(first, min(first + batch_size, mine.stop))
            x0 = backend.xp.asarray(to_float(data.images[chosen]))
            model = conditioned(unet, data.labels[chosen]) if unet.num_classes else unet
            if draws is None:
                bpd = diffusion.bits_per_dim(model, x0, seed, first)
                decoder = bpd.terms[:, 0]
            else:
                bpd = diffusion.estimate_bits_per_dim(model, x0, draws, seed, first)
                decoder = bpd.decoder
            rows.append(np.stack([bpd.total, bpd.prior, decoder]))
    total, prior, decoder = world.gather(np.concatenate(rows, axis=1), axis=1)
    parts = {
        "bits_per_dim": total, "L_T": prior, "L_between": total - prior - decoder, "L_0": decoder
    }  # fmt: skip
    return _means(parts, data, seed, "every t" if draws is None else draws)


def ode_bits_per_dim(
    unet: UNet2D,
    diffusion: GaussianDiffusion,
    data: ImageDataset,
    images: int,
    steps: int,
    batch_size: int = 125,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Return means over the first `images` of the data by the probability-flow ODE.

    ode_decoder: with L_0 of the bound; ode_uniform: with uniform dequantisation; both are explained
    in diffusion/ode_likelihood.py. steps: of the Runge-Kutta method. A class-conditional model is
    conditioned on the labels. The result has the format of bits_per_dim's.
    """
    ways = {"ode_decoder": decoder_bits, "ode_uniform": uniform_bits}
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ways}
    weights = unet.parameters()
    for weight in weights:
        weight.requires_grad = False  # the only gradient is that of the image
    try:
        for first in tqdm(range(0, images, batch_size), unit="batch", desc="ODE"):
            chosen = slice(first, min(first + batch_size, images))
            x0 = backend.xp.asarray(to_float(data.images[chosen]))
            model = _with_labels(unet, data.labels[chosen]) if unet.num_classes else unet
            for name, bits in ways.items():
                parts[name].append(bits(diffusion, model, x0, steps, seed, first, progress=True))
    finally:
        for weight in weights:
            weight.requires_grad = True
    rows = _means({name: np.concatenate(p) for name, p in parts.items()}, data, seed, 1)
    return {name: {**row, "steps": steps} for name, row in rows.items()}


def _with_labels(unet: UNet2D, labels: np.ndarray) -> Model:
    """Return the model (x, t) for these labels. Unlike that of `conditioned` it has a gradient."""
    return lambda x, t: unet(x, t, labels)


def vae_bits_per_dim(
    vae: VAE, data: ImageDataset, images: int, draws: int, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Return the mean -ELBO of a VAE over the first `images` of the data, in bits/dim.

    The result has the format of bits_per_dim's. It is empty for a Bernoulli likelihood, which is
    not a distribution over grey levels. draws: number of samples of z per image.
    """
    if vae.likelihood != "gaussian":
        return {}
    part = ImageDataset(data.images[:images], None, data.source)
    reconstruction, kl, _ = bound(vae, part, draws, seed)
    per_bit = math.log(2) * data.images[0].size
    terms = {"reconstruction": reconstruction / per_bit, "kl": kl.sum(axis=1) / per_bit}
    return _means({"bits_per_dim": sum(terms.values()), **terms}, data, seed, draws)


def _means(
    parts: dict[str, np.ndarray], data: ImageDataset, seed: int, draws: int | str
) -> dict[str, dict[str, Any]]:
    n = len(next(iter(parts.values())))
    common = {"n": n, "test": data.source, "weights": "EMA", "seed": seed, "draws": draws}
    return {
        name: {
            "value": float(values.mean()),
            "standard_error": float(values.std(ddof=1) / math.sqrt(n)) if n > 1 else None,
            **common,
        }
        for name, values in parts.items()
    }
