"""What the slides argue in words, drawn: why T is large and beta small, and where the bound lies.

    python examples/experiments.py                       # needs no trained model
    python examples/experiments.py --model runs/mnist    # the bound of that model

Written to a new folder:
    schedules.png  how much of the picture is left, alphas_cumprod, for several T and schedules
    snr.png        the same as the ratio of signal to noise
    noising.png    a digit at even times, linear above cosine
    steps.png      samples of the best model that there is, in few steps and in many
    bound.png      L_{t-1} for every t: which of them carry the bound
Without --model the model is the best one for a set of training digits, which is known in closed
form: it has them by heart. So nothing in steps.png is the fault of a network.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

import minddpm
from minddpm import GaussianDiffusion, backend, random, samplers, schedules
from minddpm.backend import Array
from minddpm.commands import cli
from minddpm.data import load_mnist, to_float
from minddpm.diffusion.scheduler_file import load_diffusion
from minddpm.drawing import curve, save_png, strip
from minddpm.errors import InputError

T_SHOWN = (100, 300, 1000, 4000)
STEPS_SHOWN = (2, 5, 10, 25, 100, 1000)
KNOWN = 2000  # digits that the best model has by heart


class BestModel:
    """E[x0 | x_t] if x0 is one of these pictures, each as likely as the others.

    By Bayes' rule a picture x_i has the weight exp(-|x_t - sqrt(ac) x_i|^2 / (2 (1 - ac))).
    """

    def __init__(self, pictures: np.ndarray, diffusion: GaussianDiffusion):
        self.ac = diffusion.alphas_cumprod
        self.pictures = pictures.reshape(len(pictures), -1).astype(np.float64)
        self.squares = (self.pictures**2).sum(axis=1)

    def __call__(self, x: Array, t: Array) -> Array:
        ac = self.ac[backend.to_numpy(t)][:, None]
        flat = backend.to_numpy(x).reshape(len(x), -1).astype(np.float64)
        log = (np.sqrt(ac) * (flat @ self.pictures.T) - ac * self.squares / 2) / (1 - ac)
        weights = np.exp(log - log.max(axis=1, keepdims=True))
        mean = weights @ self.pictures / weights.sum(axis=1, keepdims=True)
        return backend.xp.asarray(mean.reshape(x.shape).astype("float32"))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cli.add_backend(parser)
    cli.add_threads(parser)
    parser.add_argument("--model", type=Path, help="a trained model, for bound.png")
    parser.add_argument("--data-dir", type=Path, help="folder with the four IDX files of MNIST")
    parser.add_argument("--images", type=cli.positive, default=50, help="for bound.png (50)")
    parser.add_argument("--seed", type=int, default=0, help="decides the noise (0)")
    parser.add_argument("--out", type=Path, help="the folder (default: a new runs/experiments)")
    return parser.parse_args()


def as_they_are(T: int) -> np.ndarray:
    """The betas of the slides, 1e-4 .. 0.02 whatever T is."""
    return np.linspace(1e-4, 0.02, T)


def draw_schedules(out: Path) -> None:
    """What is left of the picture; and in words how far x_T is from pure noise."""
    named = {f"T = {T}": as_they_are(T) for T in T_SHOWN}
    named["cosine"] = schedules.cosine(1000)
    rows, left, ratio = [], {}, {}
    for name, betas in named.items():
        d = GaussianDiffusion(betas)
        share, ac = np.arange(1, d.T + 1) / d.T, d.alphas_cumprod
        left[name], ratio[name] = (share, ac), (share, ac / (1 - ac))
        # |x0| = 1 at every pixel: the prior's term is then the same for all digits
        L_T = float(d.prior_bpd(backend.xp.ones((1, 2, 2, 1), "float32"))[0])
        rows.append([name, *(f"{x:.2g}" for x in (ac[-1], ac[-1] / (1 - ac[-1]), L_T))])
    print(
        cli.markdown(
            ["betas 1e-4 .. 0.02", "alphas_cumprod at T", "SNR at T", "L_T, bits/dim"], rows
        )
    )
    title = "What is left of the picture: betas 1e-4 .. 0.02 for several T, and cosine"
    curve(left, out / "schedules.png", title, "t / T", "alphas_cumprod")
    title = "Signal to noise: betas 1e-4 .. 0.02 for several T, and cosine"
    curve(ratio, out / "snr.png", title, "t / T", "SNR", log_y=True)


def draw_noising(digit: np.ndarray, out: Path, seed: int) -> None:
    """One digit at even times: the linear schedule has drowned it long before the end."""
    frames = []
    times = np.linspace(0, 999, 11).round().astype(int)
    x0 = backend.xp.asarray(digit)
    noise = random.normal(digit.shape, seed, random.NOISE)
    processes = [GaussianDiffusion(make(1000)) for make in (schedules.linear, schedules.cosine)]
    for t in times:
        rows = [d.q_sample(x0, np.array([t]), noise) for d in processes]
        frames.append(np.concatenate([backend.to_numpy(row) for row in rows]))
    save_png(strip(frames, [f"t={t}" for t in times], scale=3), out / "noising.png")


def draw_steps(pictures: np.ndarray, out: Path, seed: int) -> None:
    """Ancestral samples of the best model: a column for each number of steps."""
    long = GaussianDiffusion(schedules.linear(1000), "x0")
    # The model is told the t of the long process, so its table is the long one's.
    best, shape = BestModel(pictures, long), (8, *pictures.shape[1:])
    columns, names = [], []
    for steps in tqdm(STEPS_SHOWN, unit="number of steps"):
        *_, step = samplers.ddpm(long, best, shape, steps, seed=seed, spacing="trailing")
        columns.append(backend.to_numpy(step.x))
        names.append(f"{steps}")
    short = GaussianDiffusion(as_they_are(100), "x0")
    *_, step = samplers.ddpm(short, BestModel(pictures, short), shape, seed=seed)
    columns.append(backend.to_numpy(step.x))
    names.append("100*")
    save_png(strip(columns, names, scale=3), out / "steps.png")
    print(
        "steps.png: samples in that many steps; 100*: T = 100 with betas as they are, whose x_T is "
        "no pure noise, and sampling begins with what the model never saw."
    )


def draw_bound(args: argparse.Namespace, pictures: np.ndarray, out: Path) -> None:
    """The terms of the bound over t, of a trained model or of the best one."""
    if args.model is None:
        d = GaussianDiffusion(schedules.linear(1000), "x0")
        model, who, images = BestModel(pictures, d), "the best model", pictures[: args.images]
    else:
        d = load_diffusion(args.model)
        model, who = minddpm.UNet2D.from_pretrained(args.model).eval(), str(args.model)
        images = to_float(load_mnist(args.data_dir, "test").images[: args.images])
    whole = d.bits_per_dim(model, backend.xp.asarray(images), args.seed, progress=True)
    mean = whole.terms.mean(axis=0)
    below = np.cumsum(mean) / mean.sum()
    half, most = (int(np.searchsorted(below, share)) for share in (0.5, 0.9))
    print(
        f"{who}: {whole.total.mean():.4f} bits/dim on {len(images)} digits; half of it lies at "
        f"t <= {half}, nine tenths at t <= {most}."
    )
    shown = np.where(mean > 1e-10, mean, np.nan)  # what the best model is sure of costs nothing
    between = np.arange(2, d.T + 1), shown[1:]
    series = {"L_0, the decoder": ([1], shown[:1]), "L_1 .. L_{T-1}, the steps": between}
    title = f"The bound by t: {who}"
    curve(series, out / "bound.png", title, "t + 1", "bits/dim", log_y=True, log_x=True)


def main() -> None:
    args = parse()
    random.check_seed(args.seed)
    out = args.out or cli.free_name(Path("runs/experiments"))
    if out.exists():
        raise InputError(f"{out} exists: choose another --out, or remove it first.")
    minddpm.set_backend(args.backend or "auto")
    backend.set_threads(args.threads)
    data = load_mnist(args.data_dir)
    if args.images > min(KNOWN, len(data)):
        raise InputError(f"{args.images} images: choose --images {KNOWN} or fewer.")
    out.mkdir(parents=True)
    print("about a minute, and T runs of the model on --images digits for bound.png")
    pictures = to_float(data.images[:KNOWN])
    draw_schedules(out)
    draw_noising(pictures[:1], out, args.seed)
    draw_steps(pictures, out, args.seed)
    draw_bound(args, pictures, out)
    print(f"in {out}: schedules.png, snr.png, noising.png, steps.png, bound.png")


if __name__ == "__main__":
    sys.exit(cli.run(main))
