"""Train a DDPM, a GAN and a VAE for the same time each and compare their samples and metrics.

    minddpm compare                    # four minutes each, three seeds: an hour
    minddpm compare --budget 30        # half an hour each
    minddpm compare --slides           # the step counts of the slides: a night

The same command continues an interrupted comparison. Writes report.html, which is self-contained,
report.md, samples.png and detail.png.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from minddpm import random
from minddpm.commands import cli
from minddpm.commands.parser import CommandParser
from minddpm.commands.run_figures import draw_log
from minddpm.data import ImageDataset, load_mnist, to_float
from minddpm.diffusion.sampling.steps import timesteps
from minddpm.drawing import grid, save_png
from minddpm.errors import InputError
from minddpm.evaluation.comparison import runs
from minddpm.evaluation.comparison.detail import draw_detail
from minddpm.evaluation.comparison.page import page
from minddpm.evaluation.comparison.runs import Plan
from minddpm.evaluation.comparison.systems import COOLDOWN, DDPM, Sampler
from minddpm.evaluation.comparison.table import REFERENCES, Results, summary
from minddpm.evaluation.metrics.judge import Judge, load_judge
from minddpm.evaluation.report import Reference
from minddpm.generate import SAMPLERS
from minddpm.storage.atomic import atomic_write, check_no_links
from minddpm.storage.json_files import read_json, write_json
from minddpm.training.run_directory import RunDirectory

PLAN = "plan.json"
COLUMNS = 16  # images in a row of samples.png


def parse() -> argparse.Namespace:
    parser = CommandParser(__doc__, "comparison", "files")
    comparison, files = parser.groups
    length = comparison.add_mutually_exclusive_group()
    length.add_argument("--budget", type=float, default=4, help="minutes per training run (4)")
    length.add_argument(
        "--slides", action="store_true", help="train as many steps as the lecture slides"
    )
    comparison.add_argument("--seeds", type=cli.positive, default=3, help="runs of each model (3)")
    comparison.add_argument(
        "--count", type=cli.positive, default=1000, help="samples per run (1000)"
    )
    files.add_argument(
        "--out", type=Path, default=Path("runs/comparison"), help="folder (runs/comparison)"
    )
    cli.add_data_dir(files)
    cli.add_machine(parser)
    name, steps = Sampler().name, Sampler().steps
    rare = parser.rare
    rare.add_argument(
        "--sampler", choices=SAMPLERS, default=name, help=f"sampler of the DDPM ({name})"
    )
    rare.add_argument(
        "--sampler-steps", type=cli.positive, default=steps, help=f"steps of --sampler ({steps})"
    )
    rare.add_argument(
        "--classification-steps", type=int, default=1000,
        help="training steps of classifiers on the samples (1000; 0: no classifiers)",
    )  # fmt: skip
    args = parser.parse_args()
    if not args.budget > 0 or args.classification_steps < 0:
        parser.error("--budget must be above 0 and --classification-steps at least 0")
    return args


def make_plan(args: argparse.Namespace) -> Plan:
    """Return the plan that the flags describe."""
    timesteps(DDPM.T, args.sampler_steps)  # raises before any work if the number is invalid
    return Plan(
        args.out,
        tuple(range(args.seeds)),
        None if args.slides else args.budget,
        args.count,
        Sampler(args.sampler, args.sampler_steps),
        args.classification_steps or None,
    )


def begin(plan: Plan, judge: Judge, data: dict[str, ImageDataset]) -> None:
    """Write the settings of the comparison to plan.json; only the number of seeds may change later.

    Raises InputError if --out holds a comparison with other settings, or a link to a folder.
    """
    settings = {
        "minutes": plan.minutes, "count": plan.count, "sampler": vars(plan.sampler),
        "classification_steps": plan.classification_steps, "judge": judge.name,
        "cooldown": COOLDOWN, "recipe of the DDPM": "DIGITS",
        **{part: dataset.identity()["checksum"] for part, dataset in data.items()},
    }  # fmt: skip
    file = plan.out / PLAN
    if file.is_file():
        check_no_links(plan.out)
        before = read_json(file)
        changed = [n for n in {**before, **settings} if before.get(n) != settings.get(n)]
        if changed:
            old, new = ({n: values.get(n) for n in changed} for values in (before, settings))
            raise InputError(
                f"{plan.out} holds a comparison with {old}, but this one has {new}: use the same "
                "options and data to continue it, or choose another --out."
            )
    elif plan.out.exists() and any(plan.out.iterdir()):
        raise InputError(f"{plan.out} exists and holds no comparison: choose another --out.")
    write_json(file, settings)


def announce(plan: Plan) -> None:
    """Print the planned work and about how long it takes."""
    trainings = len(plan.systems) * len(plan.seeds)
    if plan.minutes is None:
        steps = ", ".join(f"{s.name} {s.slides_steps:,} steps" for s in plan.systems)
        print(f"{steps}, {len(plan.seeds)} seeds of each; then {plan.count} samples of each")
        return
    print(
        f"{trainings} trainings of {plan.minutes:g} minutes, then {plan.count} samples of each "
        f"and their metrics: about {trainings * (plan.minutes + 2):.0f} min in total",
        flush=True,
    )


def compare(plan: Plan, reference: Reference) -> Results | None:
    """Compute every result that is not stored yet and return all; None if Ctrl-C stopped a run."""
    results: Results = {system.name: [] for system in plan.systems}
    for seed in plan.seeds:  # seed by seed: the first report needs only one run of each
        for system in plan.systems:
            training = runs.train(plan, system, seed, reference.train)
            if training is None:
                return None
            results[system.name].append(runs.judge(plan, system, seed, training, reference))
        if all(results.values()):
            write_report(plan, results, reference)
    return results


def protocol(plan: Plan, reference: Reference) -> list[str]:
    """Return the lines that explain the numbers of the table."""
    real, labelled = (min(plan.count, len(d)) for d in (reference.test, reference.train))
    bound_images = min(plan.bound_images, len(reference.test))
    lines = [
        f"{plan.count:,} samples of each training run, drawn with the averaged weights;",
        f"features and classes from {reference.judge.name};",
        f"distances to {reference.train.source}. The row of real digits uses {real:,} of",
        f"{reference.test.source}; the row of shuffled pixels uses the same images, with the",
        "pixels of each image permuted.",
        f"In the last {COOLDOWN:.0%} of each training's steps the learning rate falls to zero.",
        "The DDPM is that of train_mnist.py --unconditional; it samples with",
        f"{plan.sampler.steps} steps of {plan.sampler.name}.",
        f"The bound and the -ELBO are computed on {bound_images:,} test digits. The VAE's",
        "likelihood is a Bernoulli, which is not a distribution of grey values, so it has no",
        "bits/dim; its samples are the means of p(x|z).",
    ]
    if plan.classification_steps is not None:
        lines += [
            "Classification score: the judge labels the samples, and a new classifier is trained",
            "on them alone and tested on real digits. For comparison:",
            f"{labelled:,} training digits with their own labels, and always predicting the most",
            "frequent digit.",
        ]
    return [*lines, "Means and standard deviations over the seeds."]


def write_report(plan: Plan, results: Results, reference: Reference) -> None:
    """Write the report; samples.png has two rows of each system, then two of real digits."""
    seed, notes = plan.seeds[0], protocol(plan, reference)
    samples = {s.name: runs.first_samples(plan, s, seed) for s in plan.systems}
    samples[REFERENCES["floor"]] = to_float(reference.real_images(runs.SHOWN))
    curves = {}
    for system in plan.systems:
        run = RunDirectory(runs.directory(plan, system, seed))
        draw_log(run, system.curves, "loss", log_y=system.name != "GAN")
        curves[system.name] = (run.path / "loss.png").read_bytes()
    draw_detail(results, plan.out / "detail.png")
    detail = (plan.out / "detail.png").read_bytes()
    text = page(results, notes, samples, curves, detail, runs.frames(plan, seed))
    table = f"{summary(results)}\n\n{' '.join(notes)}\n"
    for name, content in (("report.html", text), ("report.md", table)):
        with atomic_write(plan.out / name) as file:
            file.write(content.encode())
    rows = [images[: 2 * COLUMNS] for images in samples.values()]
    save_png(grid(np.concatenate(rows), COLUMNS), plan.out / "samples.png")


def main() -> int:
    args = parse()
    random.check_seed(args.seeds)
    cli.start(args)
    started = time.perf_counter()
    plan, network = make_plan(args), load_judge()
    network.check_count(plan.count, "--count")
    data = {part: load_mnist(args.data_dir, part) for part in ("train", "test")}
    begin(plan, network, data)
    announce(plan)
    results = compare(plan, Reference(network, **data))
    if results is None:
        print(f"\nstopped and saved; the same command with --out {plan.out} continues")
        return cli.INTERRUPTED
    print(f"\n{summary(results)}")
    minutes = (time.perf_counter() - started) / 60
    print(f"{minutes:.1f} min, {cli.peak_memory()}. Wrote report.html and report.md in {plan.out}")
    return 0
