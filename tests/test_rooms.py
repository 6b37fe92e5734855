"""The order of the rooms: no file imports from a higher room, and there are no import cycles."""

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From bottom to top: each room may import from those before it. "" is minddpm/__init__.py, which
# users import; the rooms after it are above the library.
ROOMS = (
    "errors", "version", "progress_bar", "storage", "kernels", "backend", "parallel", "random",
    "autodiff", "nn", "models", "diffusion", "pipeline", "replay", "generate", "data", "drawing",
    "training", "", "baselines", "commands", "evaluation", "gpucheck", "a command", "__main__",
    "examples", "benchmarks",
)  # fmt: skip
KERNEL_ROOMS = (
    "arrays", "mpi", "shapes", "gpu", "jit", "precision", "reference", "float32", "pixels",
    "comparison", "cpu", "cuda", "emulator",
)  # fmt: skip


def modules() -> dict[str, Path]:
    """Return every module of the project with its file: minddpm.x, examples.x, benchmarks.x."""
    found = {}
    for folder in ("minddpm", "kernels", "examples", "benchmarks"):
        for file in (ROOT / folder).rglob("*.py"):
            parts = list(file.relative_to(ROOT).with_suffix("").parts)
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            found[".".join(["minddpm", *parts] if folder == "kernels" else parts)] = file
    return found


MODULES = modules()


def imports(module: str) -> set[str]:
    """Return the project's modules that a module imports, at the top or in its functions."""
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
    """Return the position of a module's room; depth: the part of its name that is the room.

    A file of commands/ with a main() is in a room of its own: evaluation/ shares the other files.
    """
    parts = [*module.split("."), ""]
    if parts[1] == "commands" and "\ndef main(" in MODULES[module].read_text():
        return order.index("a command")
    return order.index(parts[depth] if parts[0] == "minddpm" else parts[0])


def test_every_module_is_in_a_room():
    assert len(MODULES) > 150
    for module in MODULES:
        place(module, ROOMS, 1)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_no_import_upwards(module):
    for other in imports(module):
        assert place(other, ROOMS, 1) <= place(module, ROOMS, 1), f"{module} imports {other}"
        if all(name.startswith("minddpm.kernels.") for name in (module, other)):
            assert place(other, KERNEL_ROOMS, 2) <= place(module, KERNEL_ROOMS, 2), (
                f"{module} imports {other}"
            )


def test_no_import_cycle():
    graph = {module: imports(module) for module in MODULES}
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert set(order) == set(MODULES)


def test_an_import_cycle_would_be_found():
    with pytest.raises(graphlib.CycleError):
        list(graphlib.TopologicalSorter({"a": {"b"}, "b": {"a"}}).static_order())


def test_no_source_file_is_long():
    """At most 350 lines, so that one idea fits on a few screens."""
    for folder in ("minddpm", "kernels", "examples", "benchmarks"):
        for file in (ROOT / folder).rglob("*"):
            if file.suffix in (".py", ".cu", ".cuh", ".cc", ".h"):
                assert len(file.read_text().splitlines()) <= 350, file
