"""Figures of where the bits of the bound are: by t, by signal-to-noise ratio and by pixel."""

from pathlib import Path

import numpy as np

from minddpm import backend, random
from minddpm.backend import Array
from minddpm.diffusion import GaussianDiffusion
from minddpm.diffusion.forward import Model
from minddpm.diffusion.schedules import half_log_snr
from minddpm.drawing import curve, save_png, strip
from minddpm.progress_bar import tqdm

STEPS = "L_1 .. L_{T-1}, the steps"


def bits_of_pixels(d: GaussianDiffusion, model: Model, x0: Array, seed: int = 0) -> np.ndarray:
    """Return L_0 .. L_{T-1} of each pixel in bits, the mean over images, float64 [T, H, W, C].

    The noise is that of d.bits_per_dim, so the mean over pixels is the mean of its terms. T runs.
    """
    bits = np.empty((d.T, *x0.shape[1:]))
    for t in tqdm(range(d.T), unit="step"):
        ts = np.full(len(x0), t)
        x_t = d.q_sample(x0, ts, random.normal(x0.shape, seed, random.BOUND, t))
        bits[t] = backend.to_numpy(d.vb_terms_of_pixels(model, x0, x_t, ts).mean(axis=0))
    return bits


def draw_bound(
    d: GaussianDiffusion, model: Model, x0: Array, name: str, out: Path, seed: int = 0
) -> None:
    """Draw bound.png, bound_snr.png and bound_pixels.png; print where the bits are."""
    bits = bits_of_pixels(d, model, x0, seed)
    terms, L_T = bits.mean(axis=(1, 2, 3)), d.prior_bpd(x0).mean()
    cumulative = np.cumsum(terms) / terms.sum()
    half, ninety = (int(np.searchsorted(cumulative, fraction)) for fraction in (0.5, 0.9))
    print(
        f"{name}: {L_T + terms.sum():.4f} bits/dim on {len(x0)} digits, {terms[0]:.4f} of them L_0 "
        f"and {L_T:.2g} L_T; half of it lies at t <= {half}, nine tenths at t <= {ninety}."
    )
    shown = np.where(terms > 1e-10, terms, np.nan)  # terms of the optimal model can be 0
    series = {
        "L_0, the decoder": ([1], shown[:1]),
        STEPS: (np.arange(2, d.T + 1), shown[1:]),
    }
    title = f"The bound by t: {name}"
    curve(series, out / "bound.png", title, "t + 1", "bits/dim", log_y=True, log_x=True)

    # Divided by the length of the step, so that the area below the curve is the sum of the terms
    # and the number of steps and the schedule do not matter.
    log_snr = 2 * half_log_snr(d.alphas_cumprod)
    middles, lengths = (log_snr[1:] + log_snr[:-1]) / 2, log_snr[:-1] - log_snr[1:]
    series = {STEPS: (middles, shown[1:] / lengths)}
    title = f"The bound by noise: {name}; L_0 = {terms[0]:.3f} at the right end"
    curve(
        series, out / "bound_snr.png", title, "log SNR = log(ac / (1 - ac))",
        "bits/dim for each unit of log SNR",
    )  # fmt: skip

    parts = np.stack([bits[0], bits[1:].sum(axis=0), bits.sum(axis=0)]).mean(axis=3, keepdims=True)
    most = parts.max()
    frames = [part[None] / most * 2 - 1 for part in parts]
    labels = ["L_0", "L_1 .. L_{T-1}", f"both; white: {most:.1f} bits"]
    save_png(strip(frames, labels, scale=6), out / "bound_pixels.png")
