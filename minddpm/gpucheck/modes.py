"""The ways in which PyTorch runs the model (pytorch.py)."""

from typing import NamedTuple

LAYOUTS = "NCHW", "channels_last"
# Tolerances of a loss: bfloat16 has 8 significant bits, and autocast rounds more than minddpm.
PRECISIONS = {"FP32": 1e-4, "TF32": 1e-3, "bf16": 2e-2}


class Mode(NamedTuple):
    """A way to run the model. how: "eager", "graph" (a CUDA graph) or "compiled"."""

    layout: str
    precision: str
    how: str

    @property
    def name(self) -> str:
        return f"PyTorch {self.layout}, {self.precision}, {self.how}"


MODES = [
    Mode(layout, precision, how)
    for how in ("eager", "graph", "compiled")
    for precision in PRECISIONS
    for layout in LAYOUTS
]
