"""Two ranks of one thread against one rank of two threads; 8 and 64 ranks on paper.

    python benchmarks/rank_scaling.py [--rounds 7]   # a few minutes, with the extra mpi
    python benchmarks/rank_scaling.py --model        # the table of docs/parallel.md

Both train the default model on the same batches of 32 images of noise. They run one after the
other, round by round, because other programs on the machine slow both; the result is the median of
the rounds' ratios.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import minddpm
from minddpm import backend, parallel
from minddpm.commands import cli, model_options
from minddpm.data import ImageDataset
from minddpm.training import Trainer, TrainingOptions
from minddpm.training.run_directory import RunDirectory

WARM_UP, STEPS, BATCH = 3, 7, 32
# Parameters of the default model, of the small one and of Ho et al.'s.
PARAMETERS = {"one-block": 1.1e6, "small": 1.6e6, "cifar10": 35.7e6}
NETWORKS = {"1 Gbit/s": 0.125e9, "10 Gbit/s": 1.25e9, "100 Gbit/s": 12.5e9}  # bytes a second
LATENCY = 50e-6  # seconds of a message over Ethernet


def all_reduce_seconds(size: int, message: float, bandwidth: float) -> float:
    """Return 2 (N - 1) (L + M / (N W)): the 2 (N - 1) rounds of a ring, of M / N bytes each."""
    return 2 * (size - 1) * (LATENCY + message / (size * bandwidth))


def model() -> str:
    """Return the table of all-reduce times in milliseconds."""
    head = ["model", "M", *(f"{n} ranks, {network}" for n in (8, 64) for network in NETWORKS)]
    rows = [
        [name, f"{4e-6 * count:.1f} MB"]
        + [f"{1e3 * all_reduce_seconds(n, 4 * count, W):.1f}" for n in (8, 64)
           for W in NETWORKS.values()]
        for name, count in PARAMETERS.items()
    ]  # fmt: skip
    return cli.markdown(head, rows)


def train(threads: int) -> float:
    """Return the median of the seconds that a step takes in this rank."""
    parallel.join()
    minddpm.set_backend("numba")
    backend.set_threads(threads)
    pixels = np.random.default_rng(0).integers(0, 256, (256, 28, 28, 1), dtype=np.uint8)
    unet = minddpm.UNet2D(**model_options.PRESETS["one-block"])
    diffusion = minddpm.GaussianDiffusion(minddpm.schedules.linear(1000))
    with tempfile.TemporaryDirectory() as folder:
        run, options = RunDirectory(folder), TrainingOptions(batch_size=BATCH)
        trainer = Trainer(
            unet.train(), diffusion, ImageDataset(pixels, None, "noise"), run, options
        )
        seconds = []
        for _ in range(WARM_UP + STEPS):
            start = time.perf_counter()
            trainer.train_step()
            seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[WARM_UP:]))


def measure(rounds: int) -> None:
    """Print the seconds of each round, and the median of the ratios."""
    mpirun = shutil.which("mpirun", path=str(Path(sys.executable).parent)) or "mpirun"
    program, ratios = [sys.executable, __file__, "--train"], []
    for _ in range(rounds):
        commands = [*program, "2"], [mpirun, "-n", "2", *program, "1"]
        one, two = (
            float(subprocess.run(c, check=True, capture_output=True, text=True).stdout)
            for c in commands
        )
        ratios.append(one / two)
        print(f"1 rank of 2 threads: {one:.3f} s; 2 ranks of 1 thread: {two:.3f} s", flush=True)
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    print(f"times faster in 2 ranks: {middle:.2f} (quartiles {low:.2f} to {high:.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=cli.positive, default=7, help="pairs of runs (7)")
    parser.add_argument("--model", action="store_true", help="print the table on paper")
    parser.add_argument("--train", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train is not None:
        seconds = train(args.train)
        if parallel.world().rank == 0:
            print(seconds)
    elif args.model:
        print(model())
    else:
        measure(args.rounds)


if __name__ == "__main__":
    main()
