"""Start and train with 100,000 images of 64 x 64 in class folders; what the images cost.

    python benchmarks/large_folder.py --folder /tmp/images [--rounds 14]

Writes the images, 100 folders of 1,000 JPEG files, unless the folder exists. Prints how long
loading takes, with or without the cache of decoded images (docs/own-images.md), the memory of the
process, and how long a training step takes beside one on 256 images in memory, round by round.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from PIL import Image

import minddpm
from minddpm.commands import cli, model_options
from minddpm.data import ImageDataset
from minddpm.data.sources import load_images
from minddpm.training import Trainer
from minddpm.training.recipe import PLAIN
from minddpm.training.run_directory import RunDirectory

CLASSES, OF_EACH, SIZE = 100, 1000, 64
IN_MEMORY, BATCH, WARM_UP, STEPS = 256, 8, 4, 3


def write_images(folder: Path) -> None:
    """Write CLASSES folders of OF_EACH coloured waves with noise."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    for label in range(CLASSES):
        (folder / f"class{label}").mkdir(parents=True)
        for i in range(OF_EACH):
            down, right = random.uniform(0, 36, 2)
            wave = 40 * (np.sin(right * x + label) + np.cos(down * y))
            pixels = random.integers(60, 200, 3) + wave[..., None]
            pixels += random.integers(-8, 8, (SIZE, SIZE, 1))
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            image.save(folder / f"class{label}" / f"{i}.jpg", quality=85)


def new_trainer(dataset: ImageDataset) -> Trainer:
    """Return a trainer of the preset 64px after its first steps."""
    recipe = PLAIN._replace(model=model_options.AT_64)
    # The directory is only a name: nothing is saved.
    trainer = recipe.trainer(dataset, RunDirectory("large_folder"), batch_size=BATCH)
    seconds_per_step(trainer, WARM_UP)
    return trainer


def seconds_per_step(trainer: Trainer, steps: int) -> float:
    start = time.perf_counter()
    for _ in range(steps):
        trainer.train_step()
    return (time.perf_counter() - start) / steps


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="where the images are")
    parser.add_argument("--rounds", type=cli.positive, default=14, help="rounds of steps (14)")
    args = parser.parse_args()
    minddpm.set_backend("numba")
    if not args.folder.exists():
        write_images(args.folder)
    start = time.perf_counter()
    folder = load_images(str(args.folder), (SIZE, SIZE), 3, None)
    seconds = time.perf_counter() - start
    print(f"{len(folder):,} images in {seconds:.1f} s; {cli.peak_memory()}", flush=True)
    first = ImageDataset(folder.pixels(np.arange(IN_MEMORY)), None, "memory")
    trainers = [new_trainer(folder), new_trainer(first)]
    ratios = []
    for number in range(args.rounds):
        order = (0, 1) if number % 2 else (1, 0)
        times = {i: seconds_per_step(trainers[i], STEPS) for i in order}
        ratios.append(times[0] / times[1])
        print(f"{times[0]:.3f} s a step, {times[1]:.3f} s from memory", flush=True)
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    print(f"times as long: {middle:.3f} (quartiles {low:.3f} to {high:.3f})")
    print(f"both trainings: {cli.peak_memory()}")


if __name__ == "__main__":
    main()
