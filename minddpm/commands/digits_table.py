"""The metrics of digits as a table, and from which images each was computed."""

from typing import Any

from minddpm.commands import cli

NAMES = {
    "fid": "FID", "kid": "KID", "inception_score": "Inception Score", "precision": "precision",
    "recall": "recall", "nearest_training_distance": "nearest training digit",
    "classification_score": "classification score",
    "bits_per_dim": "bits/dim, the bound", "L_T": "L_T, what is left of x0 in x_T",
    "reconstruction": "-log p(x|z)", "kl": "KL(q(z|x) || p(z))",
    "L_between": "L_1 .. L_{T-1}, the steps", "L_0": "L_0, the decoder",
    "ode_decoder": "bits/dim by the ODE and L_0",
    "ode_uniform": "bits/dim by the ODE, uniform dequantisation",
}  # fmt: skip


def _rows(numbers: dict[str, Any]) -> list[list[str]]:
    """Return one row of cells for each metric."""
    columns = ("value", "standard_error", "floor", "ceiling")
    return [
        [NAMES[name], *("" if row.get(c) is None else f"{row[c]:.5g}" for c in columns)]
        for name, row in numbers.items()
    ]


def _protocol(numbers: dict[str, Any]) -> str:
    """Return lines that say from which images each metric and reference value was computed."""
    image_metrics = {name: row for name, row in numbers.items() if "extractor" in row}
    if not image_metrics:
        return ""
    about = next(iter(image_metrics.values()))
    lines = [
        f"{about['n']:,} images; extractor: {about['extractor']}; reference: "
        f"{about['reference']}; test images: {about['test']}"
    ]
    same_columns: dict[tuple[str, str], list[str]] = {}
    for name, row in image_metrics.items():
        same_columns.setdefault((row["floor_is"], row["ceiling_is"]), []).append(NAMES[name])
    for (floor, ceiling), names in same_columns.items():
        lines.append(f"{', '.join(names)}:\n  real digits: {floor}; not digits: {ceiling}")
    return "\n" + "\n".join(lines) + "\n"


def digits_table(numbers: dict[str, Any]) -> str:
    """Return the table of the metrics of digits, and how they were measured."""
    head = ["", "value", "standard error", "real digits", "not digits"]
    return f"{cli.markdown(head, _rows(numbers))}\n{_protocol(numbers)}"
