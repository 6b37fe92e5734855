"""Draw the quality of samples against the minutes of training, for the two recipes.

    python benchmarks/quality_curve.py --minutes 1,2,5,10 --out runs/curve

Needs idle cores, or on busy ones --ms, the milliseconds of a step on idle ones. A training whose
learning rate falls at the end has another end for each number of minutes: it goes back to the step
before the fall, and on from there. Writes curve.json after each point, and skips the points in it
when it is started again; then curve.png, and prints a table.
PyTorch trains PLAIN in the same steps (tests/parity), each taking --torch times as long.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from minddpm import backend
from minddpm.commands import cli
from minddpm.data import load_mnist, to_uint8
from minddpm.drawing import curve
from minddpm.evaluation.metrics.judge import SHIPPED, load_judge
from minddpm.evaluation.report import Reference
from minddpm.generate import generate
from minddpm.storage.json_files import read_json, write_json
from minddpm.training.ddpm import Trainer
from minddpm.training.recipe import DIGITS, PLAIN, Recipe
from minddpm.training.run_directory import BEFORE_COOLDOWN, STATE, RunDirectory

RECIPES = {"DIGITS": DIGITS, "PLAIN": PLAIN}
SAMPLER = {"sampler": "dpm_solver_sde", "steps": 20}


def numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=numbers, default=[1, 2, 5, 10], help="1,2,5,10")
    parser.add_argument("--recipe", choices=RECIPES, help="only this one (both)")
    parser.add_argument("--ms", type=float, help="milliseconds of a step (measured)")
    parser.add_argument("--torch", type=float, default=0.0, help="PyTorch's time for a step / ours")
    parser.add_argument("--count", type=cli.positive, default=1000, help="samples (1000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of training and samples (0)")
    parser.add_argument("--data-dir", type=Path, help="folder with the four IDX files of MNIST")
    parser.add_argument("--out", type=Path, default=Path("runs/curve"), help="runs/curve")
    return parser.parse_args()


class Contestant:
    """A recipe that is trained for more and more steps."""

    def __init__(self, name: str, args: argparse.Namespace, data: Any):
        self.recipe: Recipe = RECIPES[name]
        self.path, self.data, self.seed = args.out / name.lower(), data, args.seed
        self.ms = args.ms or 1000 * self.trainer(1).seconds_per_step()[1]

    def trainer(self, steps: int) -> Trainer:
        """Return a trainer of this many steps, before its first."""
        return self.recipe.trainer(self.data, RunDirectory(self.path), steps=steps, seed=self.seed)

    def train(self, minutes: float) -> Trainer:
        """Train for minutes in all, from the last step that a longer training shares."""
        trainer = self.trainer(round(minutes * 60_000 / self.ms))
        file = BEFORE_COOLDOWN if self.recipe.options.cooldown else STATE
        if (self.path / file).is_file():
            trainer.resume(file)
        trainer.train()
        return trainer


def measure(trainer: Trainer, reference: Reference, count: int, seed: int) -> dict[str, float]:
    """Return FID, its standard error, and the share of samples that the judge is sure of."""
    trainer.unet.eval()
    with trainer.ema.applied():
        samples = generate((trainer.unet, trainer.diffusion), count, seed=seed, **SAMPLER)
    fid, error = reference.measure(to_uint8(samples), seed)["fid"]
    sure = reference.judge.run(to_uint8(samples)).log_p.max(axis=1) > np.log(0.9)
    return {"fid": fid, "fid_error": error, "sure": float(sure.mean())}


def draw(points: list[dict[str, Any]], times_longer: float, path: Path) -> None:
    """Write FID against minutes, a line for each recipe, and one for PyTorch if times_longer."""
    lines: dict[str, tuple[list[float], list[float]]] = {}
    for name in RECIPES:
        chosen = sorted((p["minutes"], p["fid"]) for p in points if p["recipe"] == name)
        lines[name] = [m for m, _ in chosen], [fid for _, fid in chosen]
    if times_longer:
        minutes, fids = lines["PLAIN"]
        lines["PLAIN in PyTorch"] = [times_longer * m for m in minutes], fids
    curve(lines, path, "Quality against time", "minutes of training", "FID", True, True)


def main() -> None:
    args = parse()
    train, test = load_mnist(args.data_dir), load_mnist(args.data_dir, "test")
    reference = Reference(load_judge(SHIPPED), train, test)
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "curve.json"
    points = read_json(file)["points"] if file.is_file() else []
    known = {(p["recipe"], p["minutes"]) for p in points}
    for name in [args.recipe] if args.recipe else RECIPES:
        contestant = None
        for minutes in sorted(args.minutes):
            if (name, minutes) in known:
                continue
            contestant = contestant or Contestant(name, args, train)
            started = time.perf_counter()
            trainer = contestant.train(minutes)
            row = {"recipe": name, "minutes": minutes, "steps": trainer.step, "ms": contestant.ms}
            row["seconds"] = time.perf_counter() - started
            points.append({**row, **measure(trainer, reference, args.count, args.seed)})
            write_json(file, {"points": points})
            del trainer  # it locks its run directory
            print(points[-1], flush=True)
    draw(points, args.torch, args.out / "curve.png")
    for p in points:
        fid = f"{p['fid']:.2f} ± {p['fid_error']:.2f}"
        print(f"| {p['recipe']} | {p['minutes']:g} | {p['steps']:,} | {fid} | {p['sure']:.2f} |")


if __name__ == "__main__":
    backend.set_backend("auto")
    main()
