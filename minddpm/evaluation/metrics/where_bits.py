"""Where the bits of the bound are: by how much noise, and by black, grey and white pixels."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from minddpm import backend, random
from minddpm.data import ImageDataset, to_float
from minddpm.diffusion import GaussianDiffusion
from minddpm.diffusion.schedules import half_log_snr
from minddpm.generate import conditioned
from minddpm.models import UNet2D
from minddpm.progress_bar import tqdm

# Of MNIST's pixels four fifths are 0, and of the others two fifths are 252 .. 255.
WHITE = 252
PARTS = 10


class Share(NamedTuple):
    """The terms first <= t < last, whose log SNR falls from high to low, in bits/dim.

    black, grey, white: of the pixels of each kind. Their sum is that of the terms.
    """

    first: int
    last: int
    high: float
    low: float
    black: float
    grey: float
    white: float


def where_bits(
    unet: UNet2D, diffusion: GaussianDiffusion, data: ImageDataset, images: int,
    batch_size: int = 125, seed: int = 0,
) -> list[Share]:  # fmt: skip
    """Return L_0, and the sum of the other terms in ten parts, over the first `images`.

    Of each part one t is drawn for each image, and its term multiplied by the length of the part:
    an unbiased estimate, as in VariationalBound.estimate_bits_per_dim, by eleven runs of the model.
    """
    edges = np.unique(np.linspace(1, diffusion.T, PARTS + 1).round().astype(int))
    parts = [(0, 1), *zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)]
    sums = np.zeros((len(parts), 3))
    with backend.kernels.constant_weights():
        for start in tqdm(range(0, images, batch_size), unit="batch", desc="bits by brightness"):
            chosen = slice(start, min(start + batch_size, images))
            pixels = data.images[chosen]
            model = conditioned(unet, data.labels[chosen]) if unet.num_classes else unet
            black, white = pixels == 0, pixels >= WHITE
            kinds = black, ~(black | white), white
            for i, (first, last) in enumerate(parts):
                bits = _bits(diffusion, model, pixels, first, last, seed, start)
                sums[i] += [bits[kind].sum() for kind in kinds]
    log_snr = 2 * half_log_snr(diffusion.alphas_cumprod)
    values = sums / (images * data.images[0].size)
    return [
        Share(first, last, float(log_snr[first]), float(log_snr[last - 1]), *row)
        for (first, last), row in zip(parts, values.tolist(), strict=True)
    ]


def _bits(
    diffusion: GaussianDiffusion, model: Any, pixels: np.ndarray, first: int, last: int, seed: int,
    start: int,
) -> np.ndarray:  # fmt: skip
    """Return an estimate of the terms first <= t < last of each pixel, on the host."""
    x0, N = backend.xp.asarray(to_float(pixels)), len(pixels)
    step_of_t = diffusion.T + first  # so that t and noise are made of different numbers
    t = first + random.integers(last - first, start + N, seed, random.BOUND, step_of_t)[start:]
    noise = random.normal(x0.shape, seed, random.BOUND, first, start * pixels[0].size)
    x_t = diffusion.q_sample(x0, t, noise.astype(x0.dtype))
    return (last - first) * backend.to_numpy(diffusion.vb_terms_of_pixels(model, x0, x_t, t))


def shares_table(shares: list[Share]) -> tuple[list[str], list[list[str]]]:
    """Return the head and the rows of a table of where_bits, with the sums below."""
    head = ["t", "log SNR", "black", "grey", "white", "bits/dim"]
    rows = []
    for share in shares:
        several = share.last - share.first > 1
        t = f"{share.first} .. {share.last - 1}" if several else str(share.first)
        high, low = (f"{round(x, 1) + 0.0:.1f}" for x in (share.high, share.low))  # no -0.0
        log_snr = f"{high} .. {low}" if several else high
        rows.append([t, log_snr, *_cells(share[4:])])
    sums = np.sum([share[4:] for share in shares], axis=0)
    return head, [*rows, ["all", "", *_cells(sums.tolist())]]


def _cells(values: Sequence[float]) -> list[str]:
    return [f"{value:.4f}" for value in (*values, sum(values))]
