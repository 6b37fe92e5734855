"""Train a DDPM, a GAN and a VAE for the same time each, and compare them: pictures and numbers.

    python examples/compare_models.py                    # four minutes each, three seeds: an hour
    python examples/compare_models.py --budget 30        # half an hour each
    python examples/compare_models.py --slides           # as many steps as in the slides: a night

Interrupted, it goes on where it was. It leaves report.html, which needs nothing beside itself, and
report.md.
"""

import argparse
import sys
import time
from pathlib import Path

from minddpm import random
from minddpm.commands import cli
from minddpm.commands.run_figures import draw_log
from minddpm.data import ImageDataset, load_mnist
from minddpm.diffusion.sampling.steps import timesteps
from minddpm.drawing import grid, save_png
from minddpm.errors import InputError
from minddpm.evaluation.comparison import runs
from minddpm.evaluation.comparison.page import page
from minddpm.evaluation.comparison.runs import Plan
from minddpm.evaluation.comparison.systems import COOLDOWN, DDPM, Sampler
from minddpm.evaluation.comparison.table import Results, as_markdown, verdict
from minddpm.evaluation.metrics.judge import Judge, load_judge
from minddpm.evaluation.report import Reference
from minddpm.generate import SAMPLERS
from minddpm.storage.atomic import atomic_write
from minddpm.storage.json_files import read_json, write_json
from minddpm.training.run_directory import RunDirectory

PLAN = "plan.json"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cli.add_machine(parser)
    parser.add_argument("--data-dir", type=Path, help="folder with the four IDX files of MNIST")
    parser.add_argument("--out", type=Path, default=Path("runs/comparison"))
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--budget", type=float, default=4, help="minutes of each training (4)")
    length.add_argument("--slides", action="store_true", help="the slides' numbers of steps")
    parser.add_argument("--seeds", type=cli.positive, default=3, help="trainings of each (3)")
    parser.add_argument("--count", type=cli.positive, default=1000, help="pictures of each (1000)")
    parser.add_argument("--sampler", choices=SAMPLERS, default=Sampler().name, help="of the DDPM")
    parser.add_argument("--sampler-steps", type=cli.positive, default=Sampler().steps)
    parser.add_argument(
        "--classification-steps", type=int, default=1000,
        help="of the classifiers that learn from the pictures (1000; 0: leave them out)",
    )  # fmt: skip
    args = parser.parse_args()
    if not args.budget > 0 or args.classification_steps < 0:
        parser.error("--budget has to be above 0, and --classification-steps at least 0")
    return args


def make_plan(args: argparse.Namespace) -> Plan:
    """The plan of the flags."""
    timesteps(DDPM.T, args.sampler_steps)  # refuses a wrong number before any work
    return Plan(
        args.out,
        tuple(range(args.seeds)),
        None if args.slides else args.budget,
        args.count,
        Sampler(args.sampler, args.sampler_steps),
        args.classification_steps or None,
    )


def begin(plan: Plan, judge: Judge, data: dict[str, ImageDataset]) -> None:
    """Note what is compared, and how; the seeds may become more.

    Raises InputError if another comparison was begun in --out.
    """
    kept = {
        "minutes": plan.minutes, "count": plan.count, "sampler": vars(plan.sampler),
        "classification_steps": plan.classification_steps, "judge": judge.name,
        "cooldown": COOLDOWN,
        **{part: dataset.identity()["checksum"] for part, dataset in data.items()},
    }  # fmt: skip
    file = plan.out / PLAN
    if file.is_file():
        before = read_json(file)
        others = [name for name in {**before, **kept} if before.get(name) != kept.get(name)]
        if others:
            had, has = ({name: it.get(name) for name in others} for it in (before, kept))
            raise InputError(
                f"{plan.out} holds a comparison with {had}, and this is one with {has}: give the "
                "same options and digits to go on, or another --out."
            )
    elif plan.out.exists() and any(plan.out.iterdir()):
        raise InputError(f"{plan.out} exists and is no comparison: choose another --out.")
    write_json(file, kept)


def announce(plan: Plan) -> None:
    many = len(plan.systems) * len(plan.seeds)
    if plan.minutes is None:
        steps = ", ".join(f"{s.name} {s.slides_steps:,} steps" for s in plan.systems)
        print(f"{steps}, {len(plan.seeds)} seeds of each; then {plan.count} pictures of each")
        return
    print(
        f"{many} trainings of {plan.minutes:g} minutes, then {plan.count} pictures of each, "
        f"judged: about {many * (plan.minutes + 2):.0f} min in all",
        flush=True,
    )


def compare(plan: Plan, reference: Reference) -> Results | None:
    """Every result, made or found; None if Ctrl-C stopped a training."""
    results: Results = {system.name: [] for system in plan.systems}
    for seed in plan.seeds:  # seed by seed, so that a first comparison is there early
        for system in plan.systems:
            training = runs.train(plan, system, seed, reference.train)
            if training is None:
                return None
            results[system.name].append(runs.judge(plan, system, seed, training, reference))
        if all(results.values()):
            write_report(plan, results, protocol(plan, reference))
    return results


def protocol(plan: Plan, reference: Reference) -> list[str]:
    """What the numbers of the table mean."""
    real, taught = (min(plan.count, len(d)) for d in (reference.test, reference.train))
    bounded = min(plan.bound_images, len(reference.test))
    said = [
        f"{plan.count:,} pictures of each training, averaged weights;",
        f"features and classes by {reference.judge.name};",
        f"distances to {reference.train.source}; real digits are {real:,} of",
        f"{reference.test.source}, shuffled pixels are these with the pixels of each in disorder.",
        f"In the last {COOLDOWN:.0%} of each training's steps the learning rate falls to zero.",
        f"The DDPM draws by {plan.sampler.steps} steps of {plan.sampler.name}.",
        f"The bound and the -ELBO are of {bounded:,} test digits. The VAE's likelihood is a",
        "Bernoulli, which is none of grey pixels, and so it has no bits/dim; its pictures are the",
        "means of p(x|z).",
    ]
    if plan.classification_steps is not None:
        said += [
            "The classification score: the judge labels the pictures, a new classifier learns from",
            f"them alone and is tested on real digits; beside it {taught:,} training digits with",
            "their own labels, and naming the commonest digit.",
        ]
    return [*said, "Means and standard deviations over the seeds."]


def write_report(plan: Plan, results: Results, said: list[str]) -> None:
    seed = plan.seeds[0]
    pictures = {s.name: runs.first_pictures(plan, s, seed) for s in plan.systems}
    curves = {}
    for system in plan.systems:
        run = RunDirectory(runs.directory(plan, system, seed))
        draw_log(run, system.curves, "loss", log_y=system.name != "GAN")
        curves[system.name] = (run.path / "loss.png").read_bytes()
    text = page(results, said, pictures, curves, runs.frames(plan, seed))
    table = f"{as_markdown(results)}\n\n{verdict(results)}\n\n{' '.join(said)}\n"
    for name, content in (("report.html", text), ("report.md", table)):
        with atomic_write(plan.out / name) as file:
            file.write(content.encode())
    save_png(grid(pictures[DDPM.name]), plan.out / "samples.png")


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
        print(f"\nstopped, saved; the same command with --out {plan.out} goes on")
        return cli.INTERRUPTED
    print(f"\n{as_markdown(results)}\n\n{verdict(results)}")
    minutes = (time.perf_counter() - started) / 60
    print(f"{minutes:.1f} min, {cli.peak_memory()}. In {plan.out}: report.html, report.md and more")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
