"""The page of a profile: every line of the source, its counts, and the drawings of a warp."""

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from browser import check_page
from cuda_checks import needs_compiler
from emulated import CUDA
from test_profile import needs_x86

from minddpm.errors import InputError
from minddpm.kernels.emulator import Library, device_array, notation
from minddpm.kernels.emulator.page import library_page

pytestmark = needs_compiler

COALESCED = """\
// y = x, "by turns" & fast
extern "C" __global__ void copy(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x, threads = gridDim.x * blockDim.x;
    for (; i < n; i += threads) y[i] = x[i];
}
"""
PIECES = COALESCED.replace("threads = gridDim.x * blockDim.x", "end = 8 * i + 8").replace(
    "for (; i < n; i += threads)", "for (i *= 8; i < n && i < end; i++)"
)
TRANSPOSE = """\
extern "C" __global__ void transpose(const float* x, float* y) {
    __shared__ float other[32], tile[32][ROW];
    int i = threadIdx.x, j = threadIdx.y;
    other[i] = 0;
    tile[j][i] = x[32 * j + i];
    __syncthreads();
    y[32 * j + i] = 2 * tile[i][j];
}
"""
MIXED = """\
extern "C" __global__ void vectors(const float* x, double* y) {
    __shared__ float4 copy[32];
    copy[threadIdx.x] = ((const float4*)x)[threadIdx.x];
    __syncthreads();
    if (threadIdx.x < 8) y[threadIdx.x] = copy[4 * threadIdx.x].x * 2.0f;
}
extern "C" __global__ void halves(const unsigned short* x, int* y) {
    y[threadIdx.x] = x[threadIdx.x] + x[5];
}
"""


def opened(source: str, *launches: str) -> ElementTree.Element:
    """Return the page of these launches: parsed as XML, so it is well-formed."""
    library = Library(source, "some.cu", mode="profile")
    for launch in launches:
        notation.run(library, launch)
    return ElementTree.fromstring(library_page(library, launches))


def of_class(element: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return [e for e in element.iter() if name in e.get("class", "").split()]


def row(page: ElementTree.Element, line: int) -> ElementTree.Element:
    (found,) = (e for e in page.iter() if e.get("id") == f"some.cu:{line}")
    return found


def counts(page: ElementTree.Element, line: int) -> dict[str, list[str]]:
    """Return the counts of each access of a line, without `per request`."""
    accesses = of_class(row(page, line), "access")
    return {
        access[0].text: [cell.text for cell in access[1:] if cell.get("data-name") != "per request"]
        for access in accesses
    }


def drawings(page: ElementTree.Element, line: int) -> dict[str, ElementTree.Element]:
    return {e.get("data-access"): e for e in of_class(row(page, line), "drawing")}


def texts(element: ElementTree.Element) -> list[str]:
    """Return the text of each cell that lanes access."""
    return [e.text for e in element.iter("i") if e.text]


def banks(drawing: ElementTree.Element) -> list[list[tuple[int, int]]]:
    """Return for each group of lanes the pass and the bank of each cell, counted from 0."""
    places = []
    for grid in of_class(drawing, "banks"):
        areas = [e.get("style").partition("grid-area:")[2] for e in grid.iter("i")]
        pairs = [area.split("/") for area in areas]
        places.append([(int(one_pass) - 2, int(bank) - 1) for one_pass, bank in pairs])
    return places


@pytest.mark.parametrize("source", [COALESCED, PIECES, TRANSPOSE.replace("ROW", "33"), MIXED])
def test_every_line_of_the_source_is_there(source):
    kernel = source.partition("void ")[2].partition("(")[0]
    arguments = "[1024], [1024]" + ", 1024" * (kernel == "copy")
    block = "(32, 32)" if kernel == "transpose" else "32"
    page = opened(source, f"{kernel}<<<1, {block}>>>({arguments})")
    assert [code.text or "" for code in page.iter("code")][1:] == source.splitlines()
    numbers = [e.text for e in of_class(page, "number")]
    assert numbers == ["line", *(str(n + 1) for n in range(len(source.splitlines())))]


@pytest.mark.parametrize(("source", "sectors"), [(COALESCED, 4), (PIECES, 32)])
def test_the_sectors_of_a_copy(source, sectors):
    page = opened(source, "copy<<<2, 64>>>([1024], [1024], 1024)")
    expected = ["32", str(32 * sectors), "128", str(sectors), "32"]
    if sectors > 4:
        expected[1] = "1,024"
    assert counts(page, 4) == {"global load": expected, "global store": expected}
    assert len(of_class(page, "waste")) == 2 * (sectors > 4)
    for drawing, name in zip(drawings(page, 4).values(), "xy", strict=True):
        drawn = of_class(drawing, "sector")
        assert len(drawn) == sectors
        assert [sector[0].text for sector in drawn[:2]] == ["byte 0", "byte 32"]
        assert texts(drawing) == list(map(str, range(32)))
        assert len(list(drawing.iter("i"))) == 8 * sectors
        assert f" of {name}" in drawing[0][0].text


@pytest.mark.parametrize(("length", "ways"), [(32, 32), (33, 1)])
def test_the_banks_of_a_transposed_tile(length, ways):
    """With and without padding. The tile is not the block's first shared array."""
    page = opened(
        TRANSPOSE.replace("ROW", str(length)), "transpose<<<1, (32, 32)>>>([1024], [1024])"
    )
    worst = f"{ways}-way"
    assert counts(page, 5)["shared store"] == ["32", "32", "32", "1-way", "32"]
    assert counts(page, 7)["shared load"] == ["32", f"{32 * ways:,}", "32", worst, "32"]
    store, load = drawings(page, 5)["shared store"], drawings(page, 7)["shared load"]
    row_of_banks = [(0, bank) for bank in range(32)]
    assert banks(store) == [row_of_banks]
    assert banks(load) == [row_of_banks if ways == 1 else [(lane, 0) for lane in range(32)]]
    assert texts(load) == list(map(str, range(32)))


def test_vectors_and_inactive_lanes():
    page = opened(MIXED, "vectors<<<1, 32>>>([128], [8])")
    assert counts(page, 3)["global load"] == ["1", "16", "16", "16", "32"]
    store = drawings(page, 3)["shared store"]
    assert banks(store) == [[(0, bank) for bank in range(32)]] * 4
    assert texts(store) == [str(n // 4) for n in range(128)]
    assert counts(page, 5)["global store"] == ["1", "2", "2", "2", "8"]
    assert texts(drawings(page, 5)["global store"]) == [str(n // 2) for n in range(16)]
    # 16 words from lane to lane
    expected = [(one_pass, bank) for bank in (0, 16) for one_pass in range(4)]
    assert banks(drawings(page, 5)["shared load"]) == [expected]


STRIDES = """\
extern "C" __global__ void strides(const float* x, float* y, int most) {
    for (int k = 1; k <= most; k++) y[threadIdx.x] = x[k * threadIdx.x];
}
"""


@pytest.mark.parametrize("mosts", [(8, 1), (1, 8)])
def test_the_costliest_request_of_all_is_drawn(mosts):
    launches = [f"strides<<<1, 32>>>([249], [32], {most})" for most in mosts]
    page = opened(STRIDES, *launches)
    assert counts(page, 2)["global load"][0] == "9"
    assert len(of_class(drawings(page, 2)["global load"], "sector")) == 32


def test_cells_that_several_lanes_read():
    kernel = MIXED.replace("x[threadIdx.x] + x[5]", "x[5 * (threadIdx.x % 2)]")
    page = opened(kernel, "halves<<<1, 32>>>([40], [32])")
    assert counts(page, 8)["global load"] == ["1", "1", "1", "1", "32"]
    assert texts(drawings(page, 8)["global load"]) == ["16x", "16x"]
    (cell, _) = (e for e in row(page, 8).iter("i") if e.text and "x" in e.text)
    assert cell.get("title") == "lanes " + ", ".join(map(str, range(0, 32, 2)))
    page = opened(MIXED.replace("x[threadIdx.x] +", "3 +"), "halves<<<1, 32>>>([40], [32])")
    assert texts(drawings(page, 8)["global load"]) == ["0-31"]


@needs_x86
def test_operations_and_heat_of_a_line():
    source = TRANSPOSE.replace("ROW", "32")
    page = opened(source, "transpose<<<1, (32, 32)>>>([1024], [1024])")
    (operations,) = of_class(row(page, 7), "operations")
    assert operations.text == "1,024"
    assert [e.get("id") for e in page.iter("details") if "open" in e.attrib] == ["some.cu:7"]
    heat = {e.get("id"): e.find("summary").get("style") for e in page.iter("details")}
    assert heat["some.cu:7"] == "--heat: 1.00"
    assert heat["some.cu:4"] == "--heat: 0.03"  # 32 of 1,088 passes
    assert heat["some.cu:5"] == "--heat: 0.50"  # half of the sectors


def test_a_page_needs_no_other_file():
    text = ElementTree.tostring(opened(COALESCED, "copy<<<1, 32>>>([32], [32], 32)"), "unicode")
    assert not any(word in text for word in ("<script", "http", "src=", "@import", "url("))


# --- launches as text ----------------------------------------------------------------------------


def test_a_launch_is_written_as_it_is_read():
    text = "transpose<<<(1, 2), (32, 32)>>>([64, 32], [32, 64], 64, 0.5)"
    arrays = [device_array(np.zeros(shape, "f")) for shape in ((64, 32), (32, 64))]
    arguments = (*arrays, np.int32(64), np.float32(0.5))
    assert notation.written("transpose", (1, 2), (32, 32), arguments) == text
    source = (
        'extern "C" __global__ void transpose(const float* x, const long long* y, int n, float a) '
        "{\n    if (x[2047] == 0 || y[2047] != 0 || n != 64 || a != 0.5f) *(float*)x = y[-1];\n}\n"
    )
    notation.run(Library(source, "some.cu", mode="profile"), text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("copy", "is no launch: write it as"),
        ("copy<<<2>>>([9], [9], 9)", "is no launch"),
        ('copy<<<"2", 3>>>([9], [9], 9)', "is no launch"),
        ("copy<<<2, 3>>>([9], [9], 9.5)", "9.5 is given where the kernel takes a number, int32"),
        ("copy<<<2, 3>>>([9], 9, 9)", "9 is given where the kernel takes an array of float32"),
        ('copy<<<2, 3>>>(["n"], [9], 9)', "takes an array of float32, written as"),
    ],
)  # fmt: skip
def test_a_launch_that_cannot_be_read(text, words):
    with pytest.raises(InputError, match=words):
        notation.run(Library(COALESCED, "some.cu", mode="profile"), text)


# --- the command ---------------------------------------------------------------------------------


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "minddpm.kernels.emulator", "profile", *arguments],
        capture_output=True, text=True, cwd=folder,
    )  # fmt: skip


def test_the_command_with_a_launch(tmp_path):
    (tmp_path / "copy.cu").write_text(PIECES)
    launch = "copy<<<2, 64>>>([1024], [1024], 1024)"
    done = command(tmp_path, "copy.cu", launch)
    assert (done.returncode, done.stdout) == (0, "copy.html\n"), done.stderr
    page = ElementTree.fromstring((tmp_path / "copy.html").read_text())
    assert next(page.iter("code")).text == launch
    check_page(tmp_path / "copy.html", tmp_path / "profile")
    done = command(tmp_path, "copy.cu", "copy<<<2, 64>>>([1024], [1000], 1024)")
    assert (done.returncode, done.stdout) == (1, "")
    assert "error: copy: out of bounds: copy.cu:4" in done.stderr
    done = command(tmp_path, "none.cu", launch)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_the_command_with_a_program(tmp_path):
    """A kernel of minddpm, whose costs are partly in a file that it includes."""
    (tmp_path / "program.py").write_text(
        "import minddpm\n"
        'cupy = minddpm.set_backend("cupy").xp\n'
        'x = cupy.zeros((2, 25, 12), "float32")\n'
        "kernels, one = minddpm.backend.kernels, x[0, 0]\n"
        "kernels.group_norm(kernels.silu(x), one, one, 4, 1.0)\n"
    )
    done = command(tmp_path, str(CUDA / "norm.cu"), "program.py", "--page", "page.html")
    assert (done.returncode, done.stdout) == (0, "page.html\n"), done.stderr
    page = ElementTree.fromstring((tmp_path / "page.html").read_text())
    files = [heading.text for heading in page.iter("h2")]
    assert files[0] == "norm.cu"
    assert "block_sum.cuh" in files
    assert "pointwise.cu" not in files  # silu is not a kernel of this file
    lines = sum(len((CUDA / file).read_text().splitlines()) for file in files)
    assert len(list(page.iter("code"))) == 1 + lines
