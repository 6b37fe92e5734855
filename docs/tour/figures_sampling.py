"""Draw the figures of chapters 9 to 11. No network: where a model is needed, it is the exact one.

    python docs/tour/figures_sampling.py             into this folder
    python docs/tour/figures_sampling.py --out DIR

The data of chapter 9 are numbers, drawn from a mixture of two normal distributions. Then
E[eps | x_t] is known in closed form, and so is what each sampler should return.
"""

import argparse
import math
import re
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import minddpm
from minddpm import GaussianDiffusion, random, samplers, schedules
from minddpm.drawing import COLOURS, INK, curve, save_png
from minddpm.evaluation.metrics import (
    FeatureStatistics,
    frechet_distance,
    precision_recall,
)
from minddpm.evaluation.metrics.nearest import kth_distance
from minddpm.kernels import reference
from minddpm.kernels.reference.noise import PHILOX_M0, PHILOX_M1, PHILOX_W0, PHILOX_W1

# (share, mean, standard deviation) of each part of the data
PARTS = ((0.3, -0.6, 0.1), (0.7, 0.6, 0.2))
DIFFUSION = GaussianDiffusion(schedules.linear(1000), clip_x0=False)
# name -> (sampler, its spacing, network calls in S steps)
DETERMINISTIC: dict[str, tuple[Callable, str, Callable[[int], int]]] = {
    "DDIM, even in t": (samplers.ddim, "linspace", lambda S: S),
    "DDIM": (samplers.ddim, "log_snr", lambda S: S),
    "Heun": (samplers.probability_flow, "log_snr", lambda S: 2 * S - 1),
    "2S": (partial(samplers.dpm_solver, order="2S"), "log_snr", lambda S: S),
    "2M": (samplers.dpm_solver, "log_snr", lambda S: S),
}


def log_density(x: np.ndarray, ac: float, part: tuple[float, float, float]) -> np.ndarray:
    """Return log (share N(x; a mean, variance)) of a part of the data at noise level ac."""
    share, mean, deviation = part
    variance = ac * deviation**2 + 1 - ac
    square = (x - math.sqrt(ac) * mean) ** 2
    return math.log(share) - (square / variance + math.log(2 * math.pi * variance)) / 2


def exact_model(parts: tuple = PARTS) -> Callable:
    """Return the model (x_t, t) -> E[eps | x_t] for data of these parts; x_t [N, 1, 1, 1]."""

    def model(x: np.ndarray, t: np.ndarray) -> np.ndarray:
        ac = float(DIFFUSION.alphas_cumprod[int(t[0])])
        logs = np.stack([log_density(x, ac, part) for part in parts])
        chances = np.exp(logs - logs.max(axis=0))
        chances /= chances.sum(axis=0)  # of the parts, given x_t
        eps = [
            math.sqrt(1 - ac) / (ac * s**2 + 1 - ac) * (x - math.sqrt(ac) * m) for _, m, s in parts
        ]
        return (chances * np.stack(eps)).sum(axis=0)

    return model


def cumulative(x: np.ndarray, ac: float) -> np.ndarray:
    """Return P(x_t <= x) at noise level ac; ac = 1 is the data, ac = 0 standard normal."""
    erf = np.vectorize(math.erf, otypes=[float])
    total = np.zeros_like(x)
    for share, mean, deviation in PARTS:
        root = math.sqrt(2 * (ac * deviation**2 + 1 - ac))
        total += share * (1 + erf((x - math.sqrt(ac) * mean) / root)) / 2
    return total


def quantile(p: np.ndarray, ac: float) -> np.ndarray:
    """Return the x with P(x_t <= x) = p, by bisection."""
    low, high = np.full_like(p, -9.0), np.full_like(p, 9.0)
    for _ in range(45):  # to 1e-12
        middle = (low + high) / 2
        below = cumulative(middle, ac) < p
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return (low + high) / 2


def flowed(x_T: np.ndarray, ac: float) -> np.ndarray:
    """Return where the probability-flow ODE leads x_T. In one dimension it keeps all quantiles."""
    return quantile(cumulative(x_T, float(DIFFUSION.alphas_cumprod[-1])), ac)


def last(steps: Iterable) -> np.ndarray:
    *_, step = steps
    return step.x


def error(sampler: Callable, steps: int, spacing: str, x_T: np.ndarray) -> float:
    """Return the root-mean-square error of a deterministic sampler, x_T [N].

    The reference ends with the same last step, from t = 0 to pred_x0.
    """
    d, model, shape = DIFFUSION, exact_model(), (len(x_T), 1, 1, 1)
    x = flowed(x_T, float(d.alphas_cumprod[0])).reshape(shape)
    expected = d.predict_x0(x, np.zeros(len(x), int), model(x, [0]))
    x0 = last(sampler(d, model, shape, steps, x_T=x_T.reshape(shape), spacing=spacing))
    return float(np.sqrt(np.mean((x0 - expected) ** 2)))


def start(N: int = 200) -> np.ndarray:
    """Return N evenly spaced quantiles of standard normal noise."""
    return quantile((np.arange(N) + 0.5) / N, 0.0)


def draw_errors(out: Path) -> None:
    """Draw the error of each deterministic sampler over its network calls."""
    series = {}
    for name, (sampler, spacing, calls) in DETERMINISTIC.items():
        steps = [S for S in (5, 7, 10, 14, 20, 28, 40, 56, 80) if calls(S) <= 80]
        errors = [error(sampler, S, spacing, start()) for S in steps]
        series[name] = [calls(S) for S in steps], errors
    title = "Error of x_0 with the exact model"
    curve(series, out / "sampling_errors.png", title, "network calls", "RMS error", True, True)


def path(sampler: Callable, steps: int | None, x_T: float, **options: object) -> tuple:
    """Return t / 1000 before each step and at the end, and x there."""
    shape, ts, xs = (1, 1, 1, 1), [], [x_T]
    given = np.full(shape, x_T)
    for step in sampler(DIFFUSION, exact_model(), shape, steps, x_T=given, **options):
        ts.append(step.t + 1)
        xs.append(step.x.item())
    return [*ts, 0], xs


def draw_paths(out: Path) -> None:
    """Draw the paths of one x_T to the data."""
    x_T = 0.25
    exact = np.array([flowed(np.array([x_T]), ac).item() for ac in DIFFUSION.alphas_cumprod[::20]])
    series = {
        "the ODE": (np.arange(1, 1001, 20), exact),
        "DDIM, 6 steps": path(samplers.ddim, 6, x_T, spacing="linspace"),
        "2M, 6 steps": path(samplers.dpm_solver, 6, x_T, spacing="log_snr"),
        "DDPM, 100 steps": path(samplers.ddpm, 100, x_T, spacing="linspace", seed=1),
    }
    title = "From the same x_T (right) to an image of one pixel (left)"
    curve(series, out / "sampling_paths.png", title, "t", "x_t")


def distance(samples: np.ndarray) -> float:
    """Return the mean distance of the sorted samples from the data's quantiles."""
    return float(np.abs(np.sort(samples.ravel()) - quantiles(samples.size)).mean())


@cache
def quantiles(N: int) -> np.ndarray:
    """Return N evenly spaced quantiles of the data."""
    return quantile((np.arange(N) + 0.5) / N, 1.0)


def draw_distances(out: Path, N: int = 20_000) -> None:
    """Draw how far the samples' distribution is from the data, over the number of steps."""
    rows = {
        "DDPM": (samplers.ddpm, "linspace"),
        "DDIM": (samplers.ddim, "linspace"),
        "SDE": (partial(samplers.dpm_solver, order="SDE"), "log_snr"),
        "2M": (samplers.dpm_solver, "log_snr"),
    }
    steps, model = (5, 10, 20, 50, 100, 250), exact_model()
    series = {}
    for name, (sampler, spacing) in rows.items():
        runs = (sampler(DIFFUSION, model, (N, 1, 1, 1), S, spacing=spacing) for S in steps)
        series[name] = steps, [distance(last(run)) for run in runs]
    floor = distance(flowed(random.normal((N,), 0, random.X_T).astype(float), 1.0))
    series["the ODE, solved exactly"] = steps, [floor] * len(steps)
    title = f"Distance of {N:,} samples from the data, exact model"
    path = out / "sampling_distances.png"
    curve(series, path, title, "network calls", "mean distance", True, True)


def result(section: str, row: str, column: str) -> str:
    """Return a cell of a table in a section of docs/results.md, for the chapters' numbers."""
    text = (Path(__file__).parents[1] / "results.md").read_text()
    text = text.split(f"## {section}\n")[1].split("\n## ")[0]
    for table in re.findall(r"(?:^\|.*\n)+", text, re.M):
        lines = [line.split("|")[1:-1] for line in table.splitlines()]
        head, *rows = [[cell.strip(" `") for cell in line] for line in lines]
        for cells in rows:
            if cells[0] == row and column in head:
                return cells[head.index(column)]
    raise LookupError(f"{section} has no row {row!r} with a column {column!r}: name others.")


# --- chapter 10 ----------------------------------------------------------------------------------


def fid_of_equals(n: int, F: int, rounds: int) -> float:
    """Return the mean FID of n standard normal features against their own distribution."""
    exact = FeatureStatistics()
    exact.n, exact.mean, exact.scatter = 2, np.zeros(F), np.eye(F)
    values = []
    for i in range(rounds):
        x = random.normal((n, F), 0, random.METRIC, i)
        values.append(frechet_distance(exact, FeatureStatistics(x)))
    return float(np.mean(values))


def fid_bias(n: float, F: int) -> float:
    """Return the first-order expectation of fid_of_equals: F / n + F (F + 1) / (4 n)."""
    return F / n + F * (F + 1) / (4 * n)


def draw_fid_bias(out: Path) -> None:
    """Draw the FID of perfect samples over their number."""
    ns = (100, 200, 500, 1000, 2000, 5000, 10_000)
    series: dict[str, tuple] = {}
    for F in (8, 64):
        series[f"F = {F}"] = ns, [fid_of_equals(n, F, rounds=4) for n in ns]
        series[f"F/n + F(F+1)/4n, F = {F}"] = ns, [fid_bias(n, F) for n in ns]
    title = "FID of perfect samples: F independent features of variance 1"
    curve(series, out / "fid_bias.png", title, "n", "FID", True, True)


def ring(n: int, stream: int, angles: float = 2 * math.pi) -> np.ndarray:
    """Return n points on a ring, or on a part of it, [n, 2]."""
    angle = angles * random.uniform((n,), 3, random.METRIC, stream)
    radius = 1 + 0.12 * random.normal((n,), 3, random.METRIC, stream + 1)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def draw_balls(out: Path, scale: int = 3) -> None:
    """Draw real points with the balls to their third neighbour, and two kinds of generated ones."""
    real = ring(40, 0)
    sets = {
        "half of the ring": ring(40, 10, math.pi),
        "a wide normal distribution": 1.2 * random.normal((40, 2), 3, random.METRIC, 20),
    }
    side, unit = 430 * scale, 100 * scale
    canvas = Image.new("RGB", (2 * side, side), "white")
    font = ImageFont.load_default(15 * scale)
    for i, (name, generated) in enumerate(sets.items()):
        panel = Image.new("RGB", (side, side), "white")
        draw = ImageDraw.Draw(panel)

        def dot(draw: ImageDraw.ImageDraw, point: np.ndarray, r: float, **colours: object) -> None:
            x, y = side / 2 + unit * point[0], side / 2 - unit * point[1]
            draw.ellipse([x - r, y - r, x + r, y + r], **colours)

        for point, radius in zip(real, kth_distance(real, 3), strict=True):
            dot(draw, point, radius * unit, outline="#b9cde0", fill="#eef3f8", width=scale)
        for points, colour in ((real, COLOURS[0]), (generated, COLOURS[1])):
            for point in points:
                dot(draw, point, 4 * scale, fill=colour)
        precision, recall = precision_recall(real, generated)
        text = f"{name}: precision {precision:.2f}, recall {recall:.2f}"
        draw.text((side / 2, side - 16 * scale), text, INK, font, anchor="mm")
        canvas.paste(panel, (i * side, 0))
    save_png(canvas.reduce(scale), out / "precision_recall.png")


# --- chapter 11 ----------------------------------------------------------------------------------


def philox(counter: list[int], key: tuple[int, int], rounds: int) -> list[int]:
    """Return the four words after some rounds of Philox; ten are philox4x32."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(rounds):
        p0, p1 = c0 * PHILOX_M0, c2 * PHILOX_M1
        c0, c1 = (p1 >> 32) ^ c1 ^ k0, p1 & 0xFFFFFFFF
        c2, c3 = (p0 >> 32) ^ c3 ^ k1, p0 & 0xFFFFFFFF
        k0, k1 = (k0 + PHILOX_W0) & 0xFFFFFFFF, (k1 + PHILOX_W1) & 0xFFFFFFFF
    return [c0, c1, c2, c3]


def changed_bits(rounds: int, counters: int = 16) -> np.ndarray:
    """Return the mean number of output bits that change if input bit i does, [128]."""
    counts = np.zeros(128)
    for n in range(counters):
        counter = reference.random_bits(np, 4, 0, random.METRIC, n).tolist()
        before = philox(counter, (0, 0), rounds)
        for bit in range(128):
            flipped = list(counter)
            flipped[bit // 32] ^= 1 << bit % 32
            after = philox(flipped, (0, 0), rounds)
            counts[bit] += sum((a ^ b).bit_count() for a, b in zip(before, after, strict=True))
    return counts / counters


def draw_avalanche(out: Path) -> None:
    """Draw how many of 128 output bits change with one bit of the counter, over the rounds."""
    words = np.array([[1, 2, 3, 4]], np.uint32)
    assert philox([1, 2, 3, 4], (5, 6), 10) == reference.philox4x32(words, (5, 6))[0].tolist()
    rounds = range(11)
    counts = [changed_bits(r) for r in rounds]
    series = {
        "the bit with the largest effect": (rounds, [c.max() for c in counts]),
        "mean of all bits": (rounds, [c.mean() for c in counts]),
        "the bit with the smallest effect": (rounds, [c.min() for c in counts]),
    }
    title = "Changed bits of 128, if one bit of the counter changes"
    curve(series, out / "avalanche.png", title, "rounds of Philox", "bits")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder")
    out = parser.parse_args().out
    minddpm.set_backend("numpy")
    draw_errors(out)
    draw_paths(out)
    draw_distances(out)
    draw_fid_bias(out)
    draw_balls(out)
    draw_avalanche(out)


if __name__ == "__main__":
    main()
