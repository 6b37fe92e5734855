"""Train on MNIST the classifier that evaluates the other models' samples.

    python examples/train_classifier.py

Writes classifier.safetensors; the judge shipped with the package was trained this way.
"""

import argparse
import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import minddpm
from minddpm.baselines.classifier.model import Classifier
from minddpm.baselines.classifier.training import (
    ClassifierLoop,
    ClassifierOptions,
    accuracy,
    in_batches,
)
from minddpm.commands import cli, run_options, training_run
from minddpm.commands.parser import CommandParser
from minddpm.commands.run_figures import draw_log
from minddpm.data import ImageDataset, to_float
from minddpm.data.named import GREY_28, load_named
from minddpm.drawing import grid, save_png
from minddpm.evaluation.metrics.judge import save_classifier
from minddpm.training.run_directory import RunDirectory

DEFAULT_OUT = Path("runs/classifier")
FILE = "classifier.safetensors"
RUN_OPTIONS: dict[str, Any] = {
    **run_options.MACHINE,
    "data": "mnist",
    **dataclasses.asdict(ClassifierOptions()),
}


def parse() -> argparse.Namespace:
    parser = CommandParser(__doc__, "training", "files")
    training, files = parser.groups
    training_run.add_grey_data(training)
    training_run.add_options(parser, training, ClassifierOptions())
    training_run.add_run(parser, files, DEFAULT_OUT)
    return parser.parse_args()


def draw_mistakes(run: RunDirectory, classifier: Classifier, test: ImageDataset) -> None:
    """Draw up to 100 misclassified test digits in mistakes.png."""
    wrong = in_batches(classifier, test.images).argmax(axis=1) != test.labels
    if wrong.any():
        save_png(
            grid(to_float(test.images[np.flatnonzero(wrong)[:100]])), run.path / "mistakes.png"
        )


def train(args: argparse.Namespace, run: RunDirectory, options: dict[str, Any]) -> int:
    started = time.perf_counter()
    training = training_run.training_options(ClassifierOptions, options)
    minddpm.manual_seed(training.seed)
    loop = ClassifierLoop(Classifier(), load_named(options["data"], args.data_dir), run, training)
    training_run.begin(args, loop, options)
    if not training_run.train(loop):
        return cli.INTERRUPTED
    test = load_named(options["data"], args.data_dir, "test")
    with loop.ema.applied():
        fraction_correct = accuracy(loop.module, test.images, test.labels)
        draw_mistakes(run, loop.module, test)
        source = f"{len(test):,} test digits after training on {len(loop.dataset):,}"
        save_classifier(loop.module, run.path / FILE, fraction_correct, source)
    draw_log(run, {"cross entropy": "loss", "error rate": "error"}, "", log_y=True)
    minutes = (time.perf_counter() - started) / 60
    print(
        f"{fraction_correct:.2%} of {source}; {minutes:.1f} min, {cli.peak_memory()}. "
        f"Wrote {FILE}, mistakes.png, loss.png and loss.csv in {run.path}."
    )
    return 0


def main() -> int:
    choices = {"data": list(GREY_28)}
    return training_run.run_command(parse(), DEFAULT_OUT, RUN_OPTIONS, choices, train)


if __name__ == "__main__":
    sys.exit(cli.run(main))
