"""The hot operations in raw CUDA C: the text of the .cu files, and where their .cuh files are.

They are compiled by NVRTC, which knows no headers but ours; conv6_tensor.cu alone needs one of
CUDA's own, mma.h. Not a backend yet: tests run them in the emulator, and compile.py shows that
NVRTC takes them.
"""

from pathlib import Path

FOLDER = Path(__file__).parent


def files() -> list[Path]:
    """The .cu files, rungs of a ladder in their order."""
    return sorted(FOLDER.glob("*.cu"))
