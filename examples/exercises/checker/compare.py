"""Compare a result with the expected one, and recognise typical mistakes."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

# sentence -> the result of this mistake, or a tuple of results
Mistakes = Mapping[str, Any]


class NotPassed(Exception):  # noqa: N818
    """The exercise is not passed; the message says what is wrong."""


def call(function: Callable, *arguments: Any) -> Any:
    """Call the student's function; raise NotPassed if it changes an array that it was given."""
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError as error:
        raise NotPassed(f"{function.__name__}: {error}: keep its parameters.") from None
    before = [a.copy() if isinstance(a, np.ndarray) else a for a in arguments]
    with np.errstate(all="ignore"):  # compare() reports a NaN
        result = function(*arguments)
    for i, (a, old) in enumerate(zip(arguments, before, strict=True)):
        if isinstance(a, np.ndarray) and not np.array_equal(a, old):
            raise NotPassed(
                f"{function.__name__} changed its argument {i}, which still belongs to the caller: "
                "compute a new array instead of using += or [...] = on it."
            )
    return result


def results(function: Callable, names: Sequence[str], *arguments: Any) -> tuple[Any, ...]:
    """Call the student's function, which must return a tuple of these names."""
    got = call(function, *arguments)
    if not isinstance(got, (tuple, list)) or len(got) != len(names):
        given = f"{len(got)} values" if isinstance(got, (tuple, list)) else type(got).__name__
        raise NotPassed(f"{function.__name__} returned {given}: return ({', '.join(names)}).")
    return tuple(got)


def compare(
    name: str, got: Any, expected: Any, mistakes: Mistakes | None = None, tolerance: float = 1e-9
) -> None:
    """Raise NotPassed unless got equals expected, naming the entry that differs most.

    mistakes: where got equals one of these results, the message ends with its sentence.
    tolerance: relative to the largest entry of expected.
    """
    if not isinstance(got, (np.ndarray, np.generic, float, int)):
        raise NotPassed(f"{name} is {type(got).__name__}, not an array: return the result.")
    got, expected = np.asarray(got), np.asarray(expected)
    sentence = ""
    for of_mistake, wrongs in reversed((mistakes or {}).items()):
        for wrong in wrongs if isinstance(wrongs, tuple) else (wrongs,):
            if _equal(got, np.asarray(wrong), tolerance):
                sentence = of_mistake
    if got.shape != expected.shape:
        raise NotPassed(_joined(f"{name} has shape {got.shape}, not {expected.shape}.", sentence))
    if got.dtype.kind != expected.dtype.kind:
        raise NotPassed(f"{name} has dtype {got.dtype}, not {expected.dtype}.")
    if not np.isfinite(got).all():
        where = _entry(name, np.argwhere(~np.isfinite(got))[0])
        value = got[tuple(np.argwhere(~np.isfinite(got))[0])]
        raise NotPassed(_joined(f"{where} is {value}.", sentence))
    if _equal(got, expected, tolerance):
        return
    at = np.unravel_index(np.abs(got - expected).argmax(), got.shape)
    text = f"{_entry(name, at)} is {got[at]:.6g}, but should be {expected[at]:.6g}"
    if got.size > 1:
        wrong = int((np.abs(got - expected) > tolerance * _largest(expected)).sum())
        text += f" ({wrong} of {got.size} entries are wrong; this one differs most)"
    raise NotPassed(_joined(f"{text}.", sentence))


def _largest(expected: np.ndarray) -> float:
    return max(1.0, float(np.abs(expected).max(initial=0)))


def _equal(got: np.ndarray, expected: np.ndarray, tolerance: float) -> bool:
    if got.shape != expected.shape:
        return False
    return np.allclose(got, expected, rtol=0, atol=tolerance * _largest(expected), equal_nan=True)


def _entry(name: str, at: Sequence[int]) -> str:
    return f"{name}[{', '.join(str(int(i)) for i in at)}]" if len(at) else name


def _joined(text: str, sentence: str) -> str:
    return f"{text}\n{sentence}" if sentence else text
