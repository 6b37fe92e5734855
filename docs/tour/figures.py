"""Draw the figures of the tour's chapters from the project's own tables.

    python docs/tour/figures.py                  into this folder
    python docs/tour/figures.py --out DIR --data-dir DIR

steps.png is from examples/experiments.py.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from minddpm import GaussianDiffusion, random, schedules
from minddpm.data import load_mnist, to_float
from minddpm.drawing import curve, grid, save_png, strip

CHAIN_SHOWN = (0, 100, 250, 500, 1000)  # t of the formulas: steps of noise
SNR_SHOWN = (1000, 100, 30, 10, 3, 1, 0.3, 0.1, 0.03, 0.01)


def draw_chain(digit: np.ndarray, out: Path) -> None:
    """Draw a digit after several steps, and the two directions of the chain between them."""
    d, side, gap, top = GaussianDiffusion(schedules.linear(1000)), 28 * 3 + 4, 62, 20
    noise = random.normal(digit.shape, 0, random.NOISE)
    count = len(CHAIN_SHOWN)
    canvas = Image.new("RGB", (count * side + (count - 1) * gap, side + 2 * top), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(14)
    for i, t in enumerate(CHAIN_SHOWN):
        image = d.q_sample(digit, np.array([t - 1]), noise) if t else digit
        left, middle = i * (side + gap), top + side // 2
        canvas.paste(grid(image, scale=3).convert("RGB"), (left, top))
        draw.text((left + side / 2, top / 2), f"t = {t}", fill="black", font=font, anchor="mm")
        if t:
            arrow(draw, left - gap + 8, left - 8, middle - 8)
            arrow(draw, left - 8, left - gap + 8, middle + 8)
            draw.text((left - gap / 2, middle - 20), "q", fill="black", font=font, anchor="mm")
            draw.text((left - gap / 2, middle + 20), "p", fill="black", font=font, anchor="mm")
    save_png(canvas, out / "chain.png")


def arrow(draw: ImageDraw.ImageDraw, x: int, tip: int, y: int) -> None:
    back = tip + (7 if x > tip else -7)
    draw.line([(x, y), (back, y)], fill="black", width=2)
    draw.polygon([(tip, y), (back, y - 4), (back, y + 4)], fill="black")


def draw_noising(digits: np.ndarray, out: Path) -> None:
    """Draw digits at several signal-to-noise ratios. x_t depends on t only through them."""
    noise = random.normal(digits.shape, 0, random.NOISE)
    frames = [digits]
    for snr in SNR_SHOWN:
        ac = snr / (1 + snr)
        frames.append(np.sqrt(ac) * digits + np.sqrt(1 - ac) * noise)
    save_png(strip(frames, ["x0", *(f"{snr:g}" for snr in SNR_SHOWN)]), out / "noising.png")


def draw_snr(out: Path) -> None:
    """Draw the signal-to-noise ratio of each schedule over t."""
    series = {}
    for name, make in schedules.BY_NAME.items():
        ac = GaussianDiffusion(make(1000)).alphas_cumprod
        series[name] = np.arange(1000), ac / (1 - ac)
    unscaled = np.cumprod(1 - np.linspace(1e-4, 0.02, 100))
    series["linear, T = 100, not rescaled"] = np.arange(100), unscaled / (1 - unscaled)
    title = "Signal-to-noise ratio of x_t, T = 1000"
    curve(series, out / "snr.png", title, "t", "SNR", log_y=True)


def normal(x: np.ndarray, mean: float | np.ndarray, variance: float) -> np.ndarray:
    """Return the density of N(mean, variance) at x."""
    return np.exp(-((x - mean) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)


def reverse_density(x_prev: np.ndarray, x_t: float, beta: float, ac_prev: float) -> np.ndarray:
    """Return q(x_{t-1} | x_t) up to a factor, for x_0 = -1 or 1, each with probability 1/2.

    By Bayes' rule it is proportional to q(x_t | x_{t-1}) q(x_{t-1}).
    """
    marginal = sum(normal(x_prev, sign * np.sqrt(ac_prev), 1 - ac_prev) for sign in (-1, 1))
    return normal(x_t, np.sqrt(1 - beta) * x_prev, beta) * marginal


def draw_reverse_density(out: Path) -> None:
    """Draw the exact distribution of x_{t-1} given x_t for small and large beta."""
    x, series = np.linspace(-2.5, 2.5, 501), {}
    for beta in (0.01, 0.1, 0.5, 0.9):
        density = reverse_density(x, x_t=0.2, beta=beta, ac_prev=0.9)
        series[f"beta = {beta}"] = x, density / density.max()
    title = "q(x_{t-1} | x_t = 0.2), scaled to 1, if x_0 is -1 or 1"
    curve(series, out / "reverse_density.png", title, "x_{t-1}", "density")


def draw_posterior(out: Path) -> None:
    """Draw the two coefficients of the posterior mean over t."""
    d = GaussianDiffusion(schedules.linear(1000))
    t = np.arange(1, 1001)
    series = {
        "posterior_mean_coef1, of x0": (t, d.posterior_mean_coef1),
        "posterior_mean_coef2, of x_t": (t, d.posterior_mean_coef2),
    }
    title = "The posterior's mean: linear schedule, T = 1000"
    curve(series, out / "posterior.png", title, "t + 1", "coefficient", log_x=True)


def draw_variances(out: Path) -> None:
    """Draw the smallest variance as a share of the largest over t / T, t >= 1."""
    series = {}
    for T in (100, 1000, 4000):
        d = GaussianDiffusion(schedules.linear(T))
        series[f"T = {T}"] = np.arange(1, T) / T, (d.posterior_variance / d.betas)[1:]
    title = "posterior_variance / betas: linear schedule"
    curve(series, out / "variances.png", title, "t / T", "ratio", log_x=True)


def draw_weights(out: Path) -> None:
    """Draw the factor of |eps - eps_theta|^2 in L_t over t (equation 12), t >= 1."""
    d = GaussianDiffusion(schedules.linear(1000))
    t, series = np.arange(2, 1001), {}
    for name in ("fixed_small", "fixed_large"):
        d.variance = name
        variance, _ = d.model_variance()
        ac, alpha, beta = d.alphas_cumprod[1:], d.alphas[1:], d.betas[1:]
        series[name] = t, beta**2 / (2 * variance[1:] * alpha * (1 - ac))
    series["L_simple"] = t, np.ones(999)
    title = "Weight of |eps - eps_theta|^2: linear schedule, T = 1000"
    curve(series, out / "weights.png", title, "t + 1", "weight", log_y=True, log_x=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder")
    parser.add_argument("--data-dir", type=Path, help="folder with the four IDX files of MNIST")
    args = parser.parse_args()
    digits = to_float(load_mnist(args.data_dir).images[:2])
    draw_chain(digits[:1], args.out)
    draw_noising(digits, args.out)
    for draw in (draw_snr, draw_reverse_density, draw_posterior, draw_variances, draw_weights):
        draw(args.out)


if __name__ == "__main__":
    main()
