"""CuPy, which imports without a GPU, has all that the stand-in has and that minddpm uses.

Only names, kinds and parameters are compared. Much of CuPy is Cython, whose functions show their
parameters only in the first line of their docstrings.
"""

import ast
import functools
import importlib
import inspect
import re
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import minddpm
from minddpm.gpucheck import resources
from minddpm.kernels import cuda
from minddpm.kernels.emulator import cupy_on_cpu
from minddpm.kernels.emulator.cupy_on_cpu import options as cupy_options

cupy = pytest.importorskip("cupy", reason='pip install -e ".[names]"', exc_type=ImportError)
if cupy is cupy_on_cpu:
    pytest.skip("MINDDPM_CUDA=emulate: this is not CuPy", allow_module_level=True)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it warns if NCCL's library is missing
    importlib.import_module("cupy.cuda.nccl")

# Classes whose constructors programs do not call; the stand-in's have other parameters.
MADE_BY_CUPY = {"Graph", "RawKernel"}
# NumPy's third parameter is CuPy's fourth.
OTHER_ORDER = {"argmax", "argmin"}
OPERATORS = {
    name
    for name in vars(cupy_on_cpu.ndarray)
    if name.startswith("__")
    and not hasattr(object, name)
    and name not in ("__slots__", "__weakref__")
}


# --- parameters ----------------------------------------------------------------------------------

ANY = "*"


def parameters(function):
    """Return (names in order, those that are keyword-only); "*" stands for any names.

    None if they are unknown: NumPy's ufuncs have no signature in older versions.
    """
    try:
        found = inspect.signature(function, follow_wrapped=False).parameters.values()
    except (ValueError, TypeError):
        return documented(function)
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    names = [ANY if p.kind in several else p.name for p in found]
    return names, {p.name for p in found if p.kind is inspect.Parameter.KEYWORD_ONLY}


def documented(function):
    """Return parameters from a line like "f(self, size_t size, *, order='C') -> int", or None."""
    first = (function.__doc__ or "").strip().partition("\n")[0].replace("\\", "")
    found = re.fullmatch(r"[\w.]+\((.*)\)(?: -> .*)?", first)
    if not found:
        return None
    names, by_name, star = [], set(), False
    for word in re.split(r",\s*(?![^()\[\]{}]*[)\]}])", found[1]):
        name = word.partition("=")[0].split()[-1] if word else ""
        if name == "*":
            star = True
        elif name.startswith("*"):
            names.append(ANY)
        elif name and name != "/":
            names.append(name)
            by_name |= {name} if star else set()
    return names, by_name


def ours(function):
    """Return the stand-in's parameters; if it wraps a NumPy function, those that it passes on."""
    wrapped = getattr(function, "__wrapped__", None)
    if wrapped is None:
        return parameters(function)
    if isinstance(wrapped, np.ufunc):
        names = ["x1", "x2"][: wrapped.nin] if wrapped.nin > 1 else ["x"]
        return [*names, *cupy_options.UFUNC_OPTIONS], cupy_options.UFUNC_OPTIONS
    found = inspect.signature(wrapped).parameters.values()
    by_name = {p.name for p in found if p.kind is inspect.Parameter.KEYWORD_ONLY}
    names = []
    for p in found:
        nameless = p.kind is inspect.Parameter.POSITIONAL_ONLY
        refused = cupy_options.refuses(wrapped, p.name)
        if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD or nameless:
            names.append(ANY if nameless or refused else p.name)
        elif p.name in by_name and not refused:
            names.append(p.name)
    return names, by_name


def check_parameters(path, function, theirs):
    """Check that CuPy has each of the stand-in's parameters, at the same position."""
    known = parameters(theirs)
    assert known is not None, f"{path}: CuPy's parameters are unknown"
    if ANY in known[0]:
        return
    names, by_name = ours(function)
    for position, name in enumerate(names):
        if name == ANY:
            continue
        assert name in known[0], f"{path} has no parameter {name}: {known[0]}"
        if name not in by_name and path.split(".")[-1] not in OTHER_ORDER:
            assert known[0].index(name) == position, f"{path} has {name} elsewhere: {known[0]}"
            assert name not in known[1], f"{path} takes {name} by name only"


# --- the stand-in has nothing that CuPy lacks -----------------------------------------------------


def public(holder):
    """Return the names that programs may use."""
    if isinstance(holder, ModuleType):
        return sorted(set(holder.__all__) - set(getattr(holder, "ITS_OWN", ())))
    named = [name for name in vars(holder) if not name.startswith("_")]
    return named + (sorted(OPERATORS) if holder is cupy_on_cpu.ndarray else [])


def leaves(holder, path=()):
    """Yield (path, value) of everything in the stand-in, class by class."""
    for name in public(holder):
        value = inspect.getattr_static(holder, name)
        value = value.__func__ if isinstance(value, staticmethod) else value
        yield (*path, name), value
        own = isinstance(value, type) and value.__module__.startswith(minddpm.__name__)
        if own or isinstance(value, (ModuleType, SimpleNamespace)):
            yield from leaves(value, (*path, name))


LEAVES = dict(leaves(cupy_on_cpu))


def found_in_cupy(path):
    """Return CuPy's object at the path. Raises AttributeError."""
    return functools.reduce(getattr, path, cupy)


def is_hidden(path):
    """Return whether CuPy has the name only where NCCL's library is."""
    return path[:2] == ("cuda", "nccl") and len(path) > 2 and not cupy.cuda.nccl.available


@pytest.mark.parametrize("path", LEAVES, ids=".".join)
def test_cupy_has_what_the_stand_in_has(path):
    if is_hidden(path):
        pytest.skip("CuPy has NCCL's names only where its library is: nvidia-nccl-cu12, 350 MB")
    mine, theirs, name = LEAVES[path], found_in_cupy(path), ".".join(path)
    if name in cupy_on_cpu.SHARED:
        assert theirs is mine or theirs == mine
        return
    assert isinstance(theirs, type) == isinstance(mine, type), name
    assert callable(theirs) == callable(mine), name
    if isinstance(mine, type):
        assert [b.__name__ for b in mine.__mro__[1:] if b.__module__ == "builtins"] == [
            b.__name__ for b in theirs.__mro__[1:] if b.__module__ == "builtins"
        ]
        if path[-1] not in MADE_BY_CUPY and "__init__" in vars(mine):
            without_self = functools.partial(mine.__init__, None)
            check_parameters(name, without_self, theirs)
    elif callable(mine) and path[-1] not in OPERATORS:
        check_parameters(name, mine, theirs)


def test_objects_have_no_attribute_that_cupys_lack():
    module = cupy_on_cpu.RawModule(code="")
    kernel = cupy_on_cpu.RawKernel(module, "f")
    stream = cupy_on_cpu.cuda.Stream()
    for mine in (module, kernel, stream, cupy_on_cpu.cuda.Event(), cupy_on_cpu.cuda.Device()):
        kind = type(mine).__name__
        theirs = getattr(cupy, kind, None) or getattr(cupy.cuda, kind)
        for name in vars(mine):
            # Set by a constructor, which needs a GPU, but documented.
            documented = f"~{kind}.{name} (" in (theirs.__doc__ or "")
            assert documented or name.startswith("_") or hasattr(theirs, name), f"{kind}.{name}"


# --- minddpm uses nothing that CuPy lacks ---------------------------------------------------------

PACKAGE = Path(minddpm.__file__).parent
KERNELS = cuda.FOLDER.parent
SOURCES = sorted(
    {
        *PACKAGE.rglob("*.py"), *KERNELS.glob("*.py"), *cuda.FOLDER.rglob("*.py"),
        *(KERNELS / "reference").glob("*.py"),
    }
)  # fmt: skip
LIBRARY = ("xp", "cupy", "library", "backend.xp", "_xp()", "cupy()")
LIBRARY_OF = ("array_module", "backend.array_module")


def path_of(node, names):
    """Return ("cuda", "Event") for xp.cuda.Event; None if it does not begin with the array library.

    names: variables that hold a part of the library, with its path.
    """
    if ast.unparse(node) in LIBRARY:
        return ()
    if isinstance(node, ast.Call) and ast.unparse(node.func) in LIBRARY_OF:
        return ()
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        before = path_of(node.value, names)
        return None if before is None else (*before, node.attr)
    return None


def uses(text):
    """Yield (path, the call or None) of everything that a source uses of the array library."""
    tree, names = ast.parse(text), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            path = path_of(node.value, names)
            names |= {node.targets[0].id: path} if path else {}
    called = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        path = path_of(node, names) if isinstance(node, ast.Attribute) else None
        if path:
            yield path, called.get(id(node))


def problems(text):
    """Yield each use in a source of something that CuPy or the stand-in lacks."""
    for path, call in uses(text):
        name = ".".join(path)
        try:
            theirs = found_in_cupy(path)
        except AttributeError:
            if not is_hidden(path):
                yield f"CuPy has no {name}"
            continue
        try:
            functools.reduce(getattr, path, cupy_on_cpu)
        except AttributeError:
            yield f"the stand-in has no {name}"
        known = parameters(theirs) if call is not None else None
        if known is not None and ANY not in known[0]:
            yield from misfits(name, call, known)


def misfits(name, call, known):
    names, by_name = known
    if len(call.args) > len(names) - len(by_name):
        yield f"{name} takes {len(names) - len(by_name)} arguments, not {len(call.args)}"
    for keyword in call.keywords:
        if keyword.arg is not None and keyword.arg not in names:
            yield f"{name} has no parameter {keyword.arg}"


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: "/".join(file.parts[-2:]))
def test_cupy_has_what_minddpm_uses(file):
    assert list(problems(file.read_text())) == []


def test_arrays_have_the_methods_that_minddpm_calls():
    """By name: each attribute of NumPy's arrays that the sources look up on any object."""
    looked_up = {
        node.attr
        for file in SOURCES
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and path_of(node, {}) is None
    }
    used = {name for name in looked_up if name in dir(np.ndarray)}
    assert {"reshape", "astype", "sum", "flags"} < used
    assert [name for name in sorted(used) if not hasattr(cupy.ndarray, name)] == []


def test_a_kernel_says_what_it_needs():
    """The attributes that gpucheck/resources.py reads, if there are any."""
    assert all(hasattr(cupy.RawKernel, name) for name in resources.ATTRIBUTES)


def test_wrong_uses_are_found():
    for text, problem in (
        ("backend.xp.softmax(x)", "CuPy has no softmax"),
        ("xp = backend.xp\ncuda = xp.cuda\ncuda.Evnt()", "CuPy has no cuda.Evnt"),
        ("cupy.cuda.runtime.getDeviceCont()", "CuPy has no cuda.runtime.getDeviceCont"),
        ("array_module(x).kron(x, x)", "the stand-in has no kron"),
        ("xp.sum(x, where=mask)", "sum has no parameter where"),
        ("xp.concatenate(xs, 0, out, 'float32')", "concatenate takes 3 arguments, not 4"),
        ("xp.cuda.Stream(nonblocking=True)", "cuda.Stream has no parameter nonblocking"),
    ):
        assert list(problems(text)) == [problem]
    assert (
        list(problems("xp.sum(x, axis=1)\nnp.softmax(x)\nxp.cuda.Stream(non_blocking=True)")) == []
    )


def test_the_stand_in_refuses_arguments_that_cupy_refuses():
    x = cupy_on_cpu.ones(3)
    for call in (
        lambda: cupy_on_cpu.sum(x, where=x > 0), lambda: x.max(initial=0),
        lambda: x.take(0, mode="clip"), lambda: cupy_on_cpu.exp(x, where=x > 0),
        lambda: cupy_on_cpu.zeros(3, device="cpu"),
    ):  # fmt: skip
        with pytest.raises(TypeError, match="takes no"):
            call()
