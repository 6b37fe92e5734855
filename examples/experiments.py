"""Draw figures that show why T is large and beta small, and how each timestep adds to the bound.

    python examples/experiments.py                       # needs no trained model
    python examples/experiments.py --model runs/mnist    # the bound of that model

Writes to a new folder:
    schedules.png  alphas_cumprod, the share of the image that is left, for several T and schedules
    snr.png        the same as a signal-to-noise ratio
    noising.png    a digit at evenly spaced t; above: linear schedule, below: cosine
    steps.png      samples of the optimal model with few and with many sampling steps
    bound.png      L_{t-1} for every t: the contribution of each t to the bound
    bound_snr.png  the same over log SNR; the area below the curve is the sum of the terms
    bound_pixels.png  the contribution of each pixel: to L_0, to the other terms, to all of them
Without --model, the model is the optimal model of a set of training digits. It has a closed form
and memorises the digits. Therefore no error in steps.png is due to a network.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

import minddpm
from minddpm import GaussianDiffusion, backend, random, samplers, schedules
from minddpm.backend import Array
from minddpm.commands import cli
from minddpm.commands.bound_figures import draw_bound
from minddpm.commands.parser import CommandParser
from minddpm.data import load_mnist, to_float
from minddpm.diffusion.scheduler_file import load_diffusion
from minddpm.drawing import curve, save_png, strip
from minddpm.errors import InputError
from minddpm.progress_bar import tqdm

T_SHOWN = (100, 300, 1000, 4000)
STEPS_SHOWN = (2, 5, 10, 25, 100, 1000)
MEMORISED = 2000  # digits that the optimal model memorises


class OptimalModel:
    """The model E[x0 | x_t] for x0 drawn uniformly from these images.

    By Bayes' rule image x_i has the weight exp(-|x_t - sqrt(ac) x_i|^2 / (2 (1 - ac))).
    """

    def __init__(self, images: np.ndarray, diffusion: GaussianDiffusion):
        self.ac = diffusion.alphas_cumprod
        self.images = images.reshape(len(images), -1).astype(np.float64)
        self.squares = (self.images**2).sum(axis=1)

    def __call__(self, x: Array, t: Array) -> Array:
        ac = self.ac[backend.to_numpy(t)][:, None]
        flat = backend.to_numpy(x).reshape(len(x), -1).astype(np.float64)
        log = (np.sqrt(ac) * (flat @ self.images.T) - ac * self.squares / 2) / (1 - ac)
        weights = np.exp(log - log.max(axis=1, keepdims=True))
        mean = weights @ self.images / weights.sum(axis=1, keepdims=True)
        return backend.xp.asarray(mean.reshape(x.shape).astype("float32"))


def parse() -> argparse.Namespace:
    parser = CommandParser(__doc__, "figures")
    (figures,) = parser.groups
    cli.add_backend(parser.machine)
    cli.add_threads(parser.machine)
    figures.add_argument("--model", type=Path, help="a trained model, for bound.png")
    cli.add_data_dir(figures)
    figures.add_argument(
        "--images", type=cli.positive, default=50, help="digits for bound.png (50)"
    )
    figures.add_argument("--seed", type=int, default=0, help="random seed (0)")
    figures.add_argument(
        "--out", type=Path, help="new folder (default: runs/experiments, or a free name)"
    )
    return parser.parse_args()


def unscaled_betas(T: int) -> np.ndarray:
    """Return a line from 1e-4 to 0.02, the ends of the linear schedule at T = 1000, for any T."""
    return np.linspace(1e-4, 0.02, T)


def draw_schedules(out: Path) -> None:
    """Draw alphas_cumprod and the SNR over t, and print how far x_T is from pure noise."""
    named = {f"T = {T}": unscaled_betas(T) for T in T_SHOWN}
    named["cosine"] = schedules.cosine(1000)
    rows, left, ratio = [], {}, {}
    for name, betas in named.items():
        d = GaussianDiffusion(betas)
        progress, ac = np.arange(1, d.T + 1) / d.T, d.alphas_cumprod
        left[name], ratio[name] = (progress, ac), (progress, ac / (1 - ac))
        # with |x0| = 1 at every pixel the prior term is the same for all digits
        L_T = float(d.prior_bpd(backend.xp.ones((1, 2, 2, 1), "float32"))[0])
        rows.append([name, *(f"{x:.2g}" for x in (ac[-1], ac[-1] / (1 - ac[-1]), L_T))])
    print(
        cli.markdown(
            ["betas 1e-4 .. 0.02", "alphas_cumprod at T", "SNR at T", "L_T, bits/dim"], rows
        )
    )
    title = "What is left of the image: betas 1e-4 .. 0.02 for several T, and cosine"
    curve(left, out / "schedules.png", title, "t / T", "alphas_cumprod")
    title = "Signal-to-noise ratio: betas 1e-4 .. 0.02 for several T, and cosine"
    curve(ratio, out / "snr.png", title, "t / T", "SNR", log_y=True)


def draw_noising(digit: np.ndarray, out: Path, seed: int) -> None:
    """Draw a digit at evenly spaced t; with the linear schedule it becomes noise long before T."""
    frames = []
    timesteps = np.linspace(0, 999, 11).round().astype(int)
    x0 = backend.xp.asarray(digit)
    noise = random.normal(digit.shape, seed, random.NOISE)
    processes = [GaussianDiffusion(make(1000)) for make in (schedules.linear, schedules.cosine)]
    for t in timesteps:
        rows = [d.q_sample(x0, np.array([t]), noise) for d in processes]
        frames.append(np.concatenate([backend.to_numpy(row) for row in rows]))
    save_png(strip(frames, [f"t={t}" for t in timesteps], scale=3), out / "noising.png")


def draw_steps(images: np.ndarray, out: Path, seed: int) -> None:
    """Draw ancestral samples of the optimal model, one column for each number of steps."""
    long = GaussianDiffusion(schedules.linear(1000), "x0")
    # With fewer steps, the model still receives t of the long process and uses that table.
    model, shape = OptimalModel(images, long), (8, *images.shape[1:])
    columns, names = [], []
    for steps in tqdm(STEPS_SHOWN, unit="number of steps"):
        *_, step = samplers.ddpm(long, model, shape, steps, seed=seed, spacing="trailing")
        columns.append(backend.to_numpy(step.x))
        names.append(f"{steps}")
    short = GaussianDiffusion(unscaled_betas(100), "x0")
    *_, step = samplers.ddpm(short, OptimalModel(images, short), shape, seed=seed)
    columns.append(backend.to_numpy(step.x))
    names.append("100*")
    save_png(strip(columns, names, scale=3), out / "steps.png")
    print(
        "steps.png: samples in that many steps; 100*: T = 100 with unscaled betas, whose x_T is "
        "not pure noise, so sampling starts from inputs that the model was never trained on."
    )


def draw_terms(args: argparse.Namespace, memorised: np.ndarray, out: Path) -> None:
    """Draw the terms of the bound, for a trained model or for the optimal one."""
    if args.model is None:
        d = GaussianDiffusion(schedules.linear(1000), "x0")
        model, name = OptimalModel(memorised, d), "the optimal model"
        images = memorised[: args.images]
    else:
        d = load_diffusion(args.model)
        model, name = minddpm.UNet2D.from_pretrained(args.model).eval(), str(args.model)
        images = to_float(load_mnist(args.data_dir, "test").images[: args.images])
    draw_bound(d, model, backend.xp.asarray(images), name, out, args.seed)


def main() -> None:
    args = parse()
    random.check_seed(args.seed)
    out = args.out or cli.free_name(Path("runs/experiments"))
    if out.exists():
        raise InputError(f"{out} exists: choose another --out, or remove it first.")
    minddpm.set_backend(args.backend or "auto")
    backend.set_threads(args.threads)
    data = load_mnist(args.data_dir)
    if args.images > min(MEMORISED, len(data)):
        raise InputError(
            f"--images {args.images} is too large: choose {min(MEMORISED, len(data))} or fewer."
        )
    out.mkdir(parents=True)
    print("about a minute, and T runs of the model on --images digits for bound.png")
    images = to_float(data.images[:MEMORISED])
    draw_schedules(out)
    draw_noising(images[:1], out, args.seed)
    draw_steps(images, out, args.seed)
    draw_terms(args, images, out)
    print(f"in {out}: schedules.png, snr.png, noising.png, steps.png, bound*.png")


if __name__ == "__main__":
    sys.exit(cli.run(main))
