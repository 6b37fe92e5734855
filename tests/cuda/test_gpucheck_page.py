"""The page that gpucheck draws: every row is on it, failures first, times as bars."""

import re

from minddpm.gpucheck.page import page

MACHINE = {"GPU": "A <card>", "memory": "16 GiB"}
PLAN = {"machine": MACHINE, "emulated": False, "rows": []}


def check(name, error=1e-7, ok=True, note=""):
    return {"kind": "check", "name": name, "error": error, "tolerance": 1e-5, "ok": ok,
            "note": note}  # fmt: skip


def timing(what, who, milliseconds, gflops=None, gigabytes=None, problem=""):
    return {"kind": "timing", "what": what, "who": who, "milliseconds": milliseconds,
            "host": milliseconds, "gflops": gflops, "gigabytes": gigabytes, "problem": problem,
            "ok": not problem}  # fmt: skip


KERNELS = [
    {"name": "conv2d", "launches": 30, "microseconds": 900.0},
    {"name": "adam", "launches": 1, "microseconds": 90.0},
]
ROWS = [
    check("add"),
    check("silu", "nan", ok=False, note="wrong & bad"),
    timing("training step, 128 images", "cupy", 10.0),
    timing("training step, 128 images", "cupy-reference", 40.0),
    {"kind": "step", "images": 128, "kernels": KERNELS, "launches": 31, "milliseconds": 1.0,
     "host": 2.0, "problem": "", "ok": True},
    timing("ceiling", "FFMA", 1.0, gflops=8000.0),
    timing("ceiling", "copy in memory", 1.0, gigabytes=300.0),
    timing("conv 28x28", "rung 4", 2.0, gflops=6000.0),
    timing("conv 28x28", "rung 1", None, problem="off by 3"),
    {"kind": "lost", "of": "timing", "name": "conv 28x28, rung 2", "problem": "it hung",
     "ok": False},
    {"kind": "not run", "of": "timing", "name": "conv 14x14, rung 4"},
]  # fmt: skip


def text(made):
    return re.sub(r"<[^>]*>", " ", made)


def test_every_row_is_on_the_page():
    made = page(PLAN, ROWS)
    assert "A &lt;card&gt;" in made
    assert "wrong &amp; bad" in made
    assert "3 rows failed" in made
    assert made.index("silu") < made.index("add<")
    for part in (
        "it hung",
        "off by 3",
        "300 GB/s",
        "6000 GFLOP/s, 75% of FFMA",
        "conv 14x14, rung 4",
    ):
        assert part in text(made)
    assert "30 launches" in made
    assert "90.0%" in made  # 900 of 1000 us
    widths = [float(w) for w in re.findall(r"width: ([0-9.]+)%\"", made)]
    assert widths[:2] == [25.0, 100.0]


def test_the_emulator_times_nothing():
    made = page({**PLAN, "emulated": True}, [check("add")])
    assert "Nothing was timed" in made
    assert "No row failed" in made
