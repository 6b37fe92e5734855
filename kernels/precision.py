"""The number format to which a GPU's tensor cores round the factors of a product."""

from types import ModuleType

from minddpm.kernels.gpu import architecture

# The oldest architecture (80 for sm_80) whose tensor cores support each format.
PRECISIONS = {"float32": 0, "tf32": 80, "fp16": 75, "bf16": 80}
_precision = "float32"


def precision() -> str:
    """Return the format in use; backend.set_precision chooses it."""
    return _precision


def choose_precision(name: str) -> str:
    """Set the format in use, a key of PRECISIONS, and return it."""
    global _precision
    _precision = name
    return name


def available_precisions(cuda: ModuleType) -> list[str]:
    """Return the formats that the tensor cores of the GPU in use support; cuda: cupy.cuda."""
    has = architecture(cuda)
    return [name for name, oldest in PRECISIONS.items() if has >= oldest]
