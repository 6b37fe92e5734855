"""Where inputs come from: damaged files, and values of a hypothesis strategy.

An input is bytes. It is a function of (seed, index) alone, so that one input can be made again.
"""

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from random import Random
from typing import Any, Protocol

import hypothesis
from damage import JSON_VALUES
from hypothesis import strategies as st

BLOCK = 100  # hypothesis draws so many inputs at once


class Source(Protocol):
    """Makes the input of an index."""

    def input(self, seed: str, index: int) -> bytes: ...


class Damaged:
    """One of these files, damaged in one of these ways."""

    def __init__(self, files: Sequence[bytes], *damages: Callable[[bytes, Random], bytes]):
        self.files, self.damages = files, damages

    def input(self, seed: str, index: int) -> bytes:
        rng = Random(f"{seed}/{index}")
        return rng.choice(self.damages)(rng.choice(self.files), rng)


class Drawn:
    """A value of a strategy."""

    def __init__(self, strategy: st.SearchStrategy[bytes]):
        self.strategy = strategy

    def input(self, seed: str, index: int) -> bytes:
        block = _block(self.strategy, f"{seed}/{index // BLOCK}")
        return block[index % len(block)]  # a small strategy may have fewer values


@lru_cache(maxsize=4)
def _block(strategy: st.SearchStrategy[bytes], seed: str) -> list[bytes]:
    values: list[bytes] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=BLOCK, database=None, deadline=None, phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    @hypothesis.given(strategy)
    def collect(value: bytes) -> None:
        values.append(value)

    collect()
    return values


# --- strategies ----------------------------------------------------------------------------------

LEAVES = st.sampled_from(JSON_VALUES) | st.integers() | st.floats() | st.text(max_size=8)
JSON = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)
# What a JSON file may hold besides an object with other values.
ODD_FILES = st.sampled_from(
    [b"", b"null", b"[]", b"{}", b"{", b"\xff\xfe{\x00}\x00", b"\xef\xbb\xbf{}", b"[" * 100_000,
     b'{"a":' * 100_000, b"9" * 5000, b'{"steps": ' + b"9" * 5000 + b"}", b"1e999"]
)  # fmt: skip


def changed_json(raw: bytes, *path: str) -> st.SearchStrategy[bytes]:
    """Return JSON files in which a few entries of the object at `path` have other values."""
    keys = list(_at(json.loads(raw), path))
    changes = st.dictionaries(
        st.sampled_from(keys) | st.text(max_size=4), JSON, min_size=1, max_size=3
    )

    def file(changes: dict[str, Any]) -> bytes:
        content = json.loads(raw)
        _at(content, path).update(changes)
        return json.dumps(content).encode("utf-8", "surrogatepass")

    return changes.map(file) | ODD_FILES


def _at(content: Any, path: Sequence[str]) -> Any:
    for key in path:
        content = content[key]
    return content


CELL = (
    st.sampled_from(
        [
            "",
            "nan",
            "inf",
            "-inf",
            "-1",
            "0",
            "1e999",
            "1e-320",
            "1_0",
            "9" * 5000,
            '"',
            "\0",
            "é",
            "1.5",
            ",",
        ]
    )
    | st.floats().map(str)
    | st.integers().map(str)
)


def csv_files(columns: Sequence[str]) -> st.SearchStrategy[bytes]:
    """Return CSV files with these columns, most of them, or others."""
    names = st.just(list(columns)) | st.lists(st.sampled_from([*columns, "x", ""]), max_size=10)
    row = st.lists(CELL, min_size=len(columns) - 1, max_size=len(columns) + 1)
    numbers = st.lists(st.integers(1, 50).map(str), min_size=len(columns), max_size=len(columns))
    rows = st.tuples(names, st.lists(numbers | row, max_size=5))
    return rows.map(lambda x: "".join(",".join(line) + "\n" for line in [x[0], *x[1]]).encode())
