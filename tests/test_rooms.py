"""The order of the rooms: no file imports upwards, and no files import each other in a circle."""

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From the bottom to the top: each room may import from those before it. "" is minddpm/__init__.py,
# what users import; the rooms behind it are above the library.
ROOMS = (
    "errors", "version", "storage", "kernels", "backend", "random", "autodiff", "nn", "models",
    "diffusion", "pipeline", "replay", "generate", "data", "drawing", "training", "",
    "baselines", "commands", "evaluation", "gpucheck", "examples", "benchmarks",
)  # fmt: skip
KERNEL_ROOMS = (
    "arrays", "shapes", "gpu", "precision", "reference", "float32", "pixels", "cpu", "cuda",
    "emulator",
)  # fmt: skip


def modules() -> dict[str, Path]:
    """Every module of the project with its file: minddpm.x, examples.x, benchmarks.x."""
    found = {}
    for folder in ("minddpm", "kernels", "examples", "benchmarks"):
        for file in (ROOT / folder).rglob("*.py"):
            parts = list(file.relative_to(ROOT).with_suffix("").parts)
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            found[".".join(["minddpm", *parts] if folder == "kernels" else parts)] = file
    return found


MODULES = modules()


def imports(module: str) -> set[str]:
    """The project's modules that a module imports, at its head or within its functions."""
    tree, names = ast.parse(MODULES[module].read_text()), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                names.add(inner if inner in MODULES else node.module)
    # Benchmarks import one another by their bare names.
    names |= {f"benchmarks.{name}" for name in names if f"benchmarks.{name}" in MODULES}
    return {name for name in names if name in MODULES} - {module}


def place(module: str, order: tuple[str, ...], depth: int) -> int:
    """The position of a module's room; depth: which part of its name says the room."""
    parts = [*module.split("."), ""]
    return order.index(parts[depth] if parts[0] == "minddpm" else parts[0])


def test_every_module_is_in_a_room():
    assert len(MODULES) > 150
    for module in MODULES:
        place(module, ROOMS, 1)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_no_import_upwards(module):
    for other in imports(module):
        assert place(other, ROOMS, 1) <= place(module, ROOMS, 1), f"{module} imports {other}"
        inside = [name.startswith("minddpm.kernels.") for name in (module, other)]
        if all(inside):
            assert place(other, KERNEL_ROOMS, 2) <= place(module, KERNEL_ROOMS, 2), (
                f"{module} imports {other}"
            )


def test_no_circle():
    graph = {module: imports(module) for module in MODULES}
    # A package's __init__ imports what it exports; its files name their own siblings.
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert set(order) == set(MODULES)


def test_a_circle_would_be_found():
    with pytest.raises(graphlib.CycleError):
        list(graphlib.TopologicalSorter({"a": {"b"}, "b": {"a"}}).static_order())


def test_no_source_file_is_long():
    """Under 350 lines, so that one idea fits on a few screens."""
    for folder in ("minddpm", "kernels", "examples", "benchmarks"):
        for file in (ROOT / folder).rglob("*"):
            if file.suffix in (".py", ".cu", ".cuh", ".cc", ".h"):
                assert len(file.read_text().splitlines()) <= 350, file
