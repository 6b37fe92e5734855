"""The comparison as a table: mean and standard deviation over the seeds."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minddpm.commands.cli import markdown
from minddpm.evaluation.comparison.systems import SLIDES, SYSTEMS

Results = dict[str, list[dict[str, Any]]]  # system -> the results of its seeds
REFERENCES = {"floor": "real digits", "ceiling": "shuffled pixels"}  # columns of evaluate()'s rows

ROWS: list[tuple[str, Callable[[dict[str, Any]], Any], str]] = [
    ("parameters", lambda r: r["parameters"], "{:,.0f}"),
    ("training steps", lambda r: r["steps"], "{:,.0f}"),
    ("images in a step", lambda r: r["batch_size"], "{:.0f}"),
    ("ms a step", lambda r: r["ms_per_step"], "{:.0f}"),
    ("training, minutes", lambda r: r["minutes"], "{:.1f}"),
    ("sampling 1,000 images, s", lambda r: r["sampling_seconds_per_1000"], "{:.1f}"),
    ("FID", lambda r: r["metrics"]["fid"], "{:.2f}"),
    ("KID", lambda r: r["metrics"]["kid"], "{:.4f}"),
    ("Inception Score", lambda r: r["metrics"]["inception_score"], "{:.2f}"),
    ("precision", lambda r: r["metrics"]["precision"], "{:.3f}"),
    ("recall", lambda r: r["metrics"]["recall"], "{:.3f}"),
    ("classification score", lambda r: r["metrics"].get("classification_score"), "{:.4f}"),
    ("nearest training digit", lambda r: r["metrics"]["nearest_training_distance"], "{:.3f}"),
    ("grey pixels", lambda r: r["grey_pixels"], "{:.3f}"),
    ("power of details below 4 pixels", lambda r: r["fine_power"], "{:.4f}"),
    ("the bound, bits/dim", lambda r: r.get("bound", {}).get("bits_per_dim"), "{:.3f}"),
    ("-ELBO (Bernoulli), nats", lambda r: r.get("elbo_nats"), "{:.1f}"),
    ("active units", lambda r: r.get("active_units"), "{:.0f}"),
]


def rows(results: Results) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of the table, as strings."""
    names = list(results)
    head = ["", *names, *REFERENCES.values()]
    slides = {system.name: system.slides_ms for system in (*SYSTEMS, *SLIDES)}
    body = []
    for label, get, style in ROWS:
        columns = [[get(r) for r in results[name]] for name in names]
        if all(x is None for column in columns for x in column):
            continue
        references = [_reference(columns, key, style) for key in REFERENCES]
        body.append([label, *(_cell(column, style) for column in columns), *references])
        if label == "ms a step":
            stated = [slides[name] for name in names]
            body.append(["ms a step in the lecture slides", *stated, *("" for _ in REFERENCES)])
    return head, body


def as_markdown(results: Results) -> str:
    """Return the table in Markdown."""
    return markdown(*rows(results))


def summary(results: Results) -> str:
    """Return the table and the verdict in Markdown."""
    return f"{as_markdown(results)}\n\n{verdict(results)}"


def _cell(column: Sequence[Any], style: str) -> str:
    values = [x["value"] if isinstance(x, dict) else x for x in column]
    if any(x is None for x in values):
        return "-"
    spread = np.std(values, ddof=1) if len(values) > 1 else 0.0
    mean = style.format(np.mean(values))
    return f"{mean} ± {style.format(spread)}" if spread > 0 else mean


def _reference(columns: Sequence[Sequence[Any]], key: str, style: str) -> str:
    values = [x[key] for column in columns for x in column if isinstance(x, dict) and key in x]
    return style.format(np.mean(values)) if values else ""


def verdict(results: Results) -> str:
    """Return sentences that name the best system by FID and by classification score.

    Each says whether the lead holds for every seed. The last sentence has the number of training
    images of each system: a step of a DDPM takes far longer than a step of a VAE, so the DDPM sees
    fewer images in the same time.
    """
    sentences = []
    for name, key, sign in (
        ("FID", "fid", -1),
        ("classification score", "classification_score", 1),
    ):
        scored = {
            system: [r["metrics"][key]["value"] for r in column if key in r["metrics"]]
            for system, column in results.items()
        }
        if not all(scored.values()):
            continue
        order = sorted(scored, key=lambda s: -sign * float(np.mean(scored[s])))
        best, second = order[0], order[1] if len(order) > 1 else order[0]
        certainty = _certainty(scored[best], scored[second], sign)
        sentences.append(f"By {name} the {best} is ahead of the {second}, {certainty}.")
    seen = {name: column[0]["steps"] * column[0]["batch_size"] for name, column in results.items()}
    counts = ", ".join(f"{name} {n:,}" for name, n in seen.items())
    return " ".join([*sentences, f"Training images, repetitions included: {counts}."])


def _certainty(best: Sequence[float], second: Sequence[float], sign: int) -> str:
    if len(best) == 1:
        return "with one seed, which proves little"
    if min(sign * x for x in best) > max(sign * x for x in second):
        return "with every seed"
    one, other = (f"{min(values):.3g} .. {max(values):.3g}" for values in (best, second))
    return f"on average, not with every seed: {one} against {other}"
