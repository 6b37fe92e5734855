"""Timesteps by the strings of improved-diffusion: space_timesteps of its respace.py."""

import re

import numpy as np

from minddpm.errors import InputError


def is_respacing(spacing: str) -> bool:
    """Return whether a spacing is "ddim25", "250" or "10,15,20", or looks like one."""
    return spacing.startswith("ddim") or spacing[:1].isdigit()


def section_timesteps(T: int, steps: int | None, spacing: str) -> np.ndarray:
    """Return the timesteps that a string names, increasing, int64 [their number].

    "ddim25"    0, s, 2s, ... with the smallest integer stride s that gives 25 timesteps
    "10,15,20"  T in three sections of equal length, the first ones longer by one if T is not
                divisible; in each that many, evenly spaced from its first to its last timestep,
                rounded. "250" is one section
    A single timestep in all is T-1 here: nothing is left of an image that starts at 0.
    Raises InputError for another string, more timesteps than there are, a stride that does not
    exist, and steps, which the string already states.
    """
    if steps is not None:
        raise InputError(f"spacing {spacing} states the number of steps: leave out steps.")
    if not re.fullmatch(r"(ddim)?\d{1,9}|\d{1,9}(,\d{1,9})+", spacing):
        raise InputError(f"spacing {spacing!r}: write ddim25, 250, or sections such as 10,15,20.")
    if spacing.startswith("ddim"):
        visited = _strided(T, int(spacing[4:]), spacing)
    else:
        visited = _sections(T, [int(count) for count in spacing.split(",")], spacing)
    return visited if len(visited) > 1 else np.array([T - 1])


def _strided(T: int, count: int, spacing: str) -> np.ndarray:
    for stride in range(1, T + 1):
        if len(range(0, T, stride)) == count:
            return np.arange(0, T, stride)
    raise InputError(
        f"spacing {spacing}: no integer stride gives {count} of {T} timesteps: choose a divisor "
        f"of {T}, or spacing {count}."
    )


def _sections(T: int, counts: list[int], spacing: str) -> np.ndarray:
    sections, visited = np.array_split(np.arange(T), len(counts)), []
    for count, section in zip(counts, sections, strict=True):
        if not 1 <= count <= len(section):
            raise InputError(
                f"spacing {spacing}: {count} timesteps of a section of {len(section)}: choose "
                f"1 .. {len(section)}."
            )
        # Added up step by step, as there: of two timesteps equally near, the same one is taken.
        strides = np.full(count, (len(section) - 1) / max(count - 1, 1))
        strides[0] = 0
        visited.append(section[np.cumsum(strides).round().astype(np.int64)])
    return np.concatenate(visited)
