"""The page that gpucheck draws: every row is on it, failures first, times as bars."""

import re

import pytest
from browser import check_page, needs_chromium
from PIL import Image

from minddpm.gpucheck import tables
from minddpm.gpucheck.page import page

MACHINE = {"GPU": "A <card>", "memory": "16 GiB"}
PLAN = {"machine": MACHINE, "emulated": False, "rows": []}


def check(name, error=1e-7, ok=True, note=""):
    return {"kind": "check", "name": name, "error": error, "tolerance": 1e-5, "ok": ok,
            "note": note}  # fmt: skip


def timing(what, who, milliseconds=None, problem="", missing="", **more):
    numbers = dict.fromkeys(("queued", "memory", "images_per_second", "gflops", "gigabytes"))
    return {"kind": "timing", "name": f"{what}, {who}", "what": what, "who": who, **numbers,
            "milliseconds": milliseconds, "host": milliseconds, "problem": problem,
            "missing": missing, "ok": not problem, **more}  # fmt: skip


def kernel(name, launches, microseconds, flops=0, moved=0):
    return {"name": name, "launches": launches, "microseconds": microseconds, "flops": flops,
            "bytes": moved}  # fmt: skip


KERNELS = [
    kernel("conv4_registers: conv2d", 30, 900.0, flops=3_600_000_000, moved=1000),
    kernel("pointwise: adam", 1, 90.0, moved=6_750_000),
]
NEEDS = [
    {"name": "norm: group_norm", "options": "-DSTORED", "registers": 44, "stack": 8, "shared": 32,
     "expected": None},
    {"name": "norm: group_norm", "options": "-DBF16", "registers": 43, "stack": 0, "shared": 32,
     "expected": None},
    {"name": "random: dropout", "options": "", "registers": None, "stack": None, "shared": None,
     "expected": [40, 0]},
    {"name": "random: random_bits", "options": "", "registers": 38, "stack": 16, "shared": 0,
     "expected": [40, 0]},
    {"name": "norm: group_norm", "options": "", "registers": 40, "stack": 0, "shared": 0,
     "expected": [40, 0]},
]  # fmt: skip
DIGITS = {
    "kind": "digits", "name": "a training", "steps": 1200, "training_seconds": 66.0,
    "data": "MNIST", "loss": 0.03, "fid": 0.4, "fid_of_real": 0.05, "sure": 0.75,
    "sure_of_real": 0.99, "picture": "", "note": "OSError: full", "missing": "", "problem": "",
}  # fmt: skip
ROWS = [
    {"kind": "compile", "name": "all", "modules": 12, "problems": ["norm.cu: bad"], "seconds": 61},
    check("add"),
    check("silu", "nan", ok=False, note="wrong & bad"),
    timing("training step, 128 images", "cupy, replayed", 10.0, queued=8.0, memory=2**30,
           images_per_second=12800.0),
    timing("training step, 128 images", "cupy-reference", 40.0),
    timing("training step, 128 images", "PyTorch", missing="torch is not installed"),
    {"kind": "step", "name": "by kernel", "what": "training", "images": 128, "precision": "float32",
     "kernels": KERNELS, "launches": 31, "milliseconds": 1.0, "host": 2.0, "problem": "",
     "ok": True},
    timing("ceiling", "FFMA", 1.0, gflops=8000.0),
    timing("ceiling", "copy in memory", 1.0, gigabytes=300.0),
    {"kind": "resources", "name": "registers", "kernels": NEEDS},
    DIGITS,
    timing("conv 28x28", "rung 4", 2.0, gflops=6000.0),
    timing("conv 28x28", "rung 1", problem="off by 3"),
    {"kind": "lost", "of": "timing", "name": "conv 28x28, rung 2", "problem": "it hung",
     "ok": False},
    timing("training step, 128 images", "PyTorch NCHW, FP32, compiled", 20.0),
    {"kind": "state", "when": "after FFMA", "clocks": "1590 MHz, memory 5000 MHz, 61 C, 68 W"},
    {"kind": "not run", "of": "timing", "name": "conv 14x14, rung 4"},
]  # fmt: skip


def text(made):
    """Return the cells of the page, separated by bars."""
    return re.sub(r"(<[^>]*>)+", "|", made)


def test_every_row_is_on_the_page():
    made = page(PLAN, ROWS)
    assert "A &lt;card&gt;" in made
    assert "wrong &amp; bad" in made
    assert "Rows that failed: 3." in made
    assert made.index("silu") < made.index("add<")
    for part in (
        "it hung", "off by 3", "|10.00|8.000|10.00|12800|1024|", "|6000|75|",
        "|1.000|1.000|300|", "|PyTorch|torch is not installed|", "conv 14x14, rung 4",
        "|900.0|90.0|30|50|FFMA|", "|90.0|9.0|1|25|copy in memory|", "|44|8|32|no numbers|",
        "|not available|40/0|", "|38|16|0|40/0, -2 registers, +16 stack|", "|40|0|0|40/0|",
        "without a stack: 1.", "1590 MHz", "Trained for 1200 steps", "OSError: full",
    ):  # fmt: skip
        assert part in text(made), part
    assert made.count("<h2>training step, 128 images</h2>") == 1
    conv = made.partition("<h2>conv 28x28</h2>")[2].partition("<h2>")[0]
    assert "it hung" in conv
    widths = [float(w) for w in re.findall(r"width: ([0-9.]+)%\"", made)]
    assert widths[:3] == [25.0, 100.0, 50.0]


@needs_chromium
def test_the_page_opens_in_a_browser(tmp_path):
    (file := tmp_path / "gpucheck.html").write_text(page(PLAN, ROWS))
    check_page(file, tmp_path / "profile")


def test_a_bar_that_is_much_longer_is_cut_off():
    made = page(PLAN, [timing("a", who, time) for who, time in zip("bcd", (1, 8, 9), strict=True)])
    bars = re.findall(r'<div( class="longer")? style="width: ([0-9.]+)%"', made)
    assert bars == [("", "12.5"), ("", "100.0"), (' class="longer"', "100.0")]


def test_every_row_is_in_the_tables():
    made = tables.tables(PLAN, ROWS)
    for part in (
        "12 modules of kernels compiled in 61 s.\nFAILED norm.cu: bad",
        "| silu | nan | 1e-05 | FAILED wrong & bad |",
        "| training step, 128 images | ms | ms, queued | ms of the host | images/s | MiB |\n",
        "| cupy, replayed | 10.00 | 8.000 | 10.00 | 12800 | 1024 |\n",
        "| PyTorch | torch is not installed |", "| rung 4 | 2.000 | 2.000 | 6000 | 75 |\n",
        "FAILED off by 3", "FAILED it hung",
        "| conv4_registers: conv2d | 30 | 900.0 | 90.0 | 50 of FFMA |",
        "| pointwise: adam | 1 | 90.0 | 9.0 | 25 of copy in memory |", "64.5 us for each",
        "| norm: group_norm -DSTORED | 44 | 8 | 32 | no numbers |", "without a stack: 1.",
        "not available | 40/0 |", "| 38 | 16 | 0 | 40/0, -2 registers, +16 stack |",
        "| 40 | 0 | 0 | 40/0 |",
        "Trained for 1200 steps in 66 s (MNIST), loss 0.0300. FID of the samples by our own judge "
        "0.40, of as many real digits 0.05. The judge is 95% sure of 75% of the samples, of 99% of "
        "real digits. No picture: OSError: full",
        "| after FFMA | 1590 MHz, memory 5000 MHz, 61 C, 68 W |",
        "from 'conv 14x14, rung 4' on",
    ):  # fmt: skip
        assert part in made, part


def test_the_picture_is_in_the_page(tmp_path):
    Image.new("L", (4, 4)).save(file := tmp_path / "digits.png")
    made = page(PLAN, [{**DIGITS, "picture": str(file)}])
    assert 'src="data:image/png;base64,iVBOR' in made
    assert "<img" not in page(PLAN, [{**DIGITS, "picture": str(tmp_path / "gone.png")}])


@pytest.mark.parametrize(
    ("who", "part"),
    [("rung 4", "50"), ("rung 6, half", "25"), ("rung 6, bfloat16", "25"), ("rung 6, TF32", "")],
)
def test_products_are_compared_with_the_ceiling_of_their_precision(who, part):
    row = timing("conv", who, 1.0, gflops=4000.0)
    measured = {"FFMA": 8000.0, "tensor cores, half": 16000.0}
    assert tables.times(row, measured)[tables.TIMES.index("% of its ceiling")] == part
    assert tables.timings_table("conv", [row], {})[0] == [
        "conv", "ms", "ms of the host", "GFLOP/s, effective"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        (kernel("conv6_tensor: conv2d", 1, 1.0, flops=32_000_000), (50.0, "tensor cores, half")),
        (kernel("conv4_registers: conv2d", 1, 1.0, 4_000_000, 270_000), (90.0, "copy in memory")),
        (kernel("linears: linears_backward", 1, 1.0), None),
    ],
)
def test_the_larger_share_of_two_ceilings(kernel, expected):
    measured = {"FFMA": 8000.0, "copy in memory": 300.0, "tensor cores, half": 64000.0}
    assert tables.share(kernel, measured) == expected
    assert tables.share(kernel, {}) is None


def test_the_emulator_times_nothing():
    made = page({**PLAN, "emulated": True}, [check("add")])
    assert "Nothing was timed" in made
    assert "No row failed" in made
