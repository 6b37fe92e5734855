"""The exercises: untouched ones fail, solutions pass, and typical mistakes are recognised."""

import html
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import refused

import check
import planted
from checker import gradients
from checker.run import NOT_PASSED, NOT_STARTED, PASSED, load
from minddpm.commands import cli
from minddpm.kernels import reference
from minddpm.kernels.emulator import build

HERE = check.HERE
L_SIMPLE = str(Path("diffusion", "03_l_simple.py"))
SOLUTIONS = Path(__file__).parent / "solutions"
PLANTED = planted.DIFFUSION + planted.GRADIENTS + planted.CUDA
NUMBERS = sorted(check.FILES)


def solution(number: int) -> Path:
    return SOLUTIONS / check.FILES[number].name


def mark(number: int, *values):
    """Return a parameter that is skipped if the exercise is a kernel and there is no compiler."""
    kernel = number in check.FILES and check.FILES[number].suffix == ".cu"
    skipped = pytest.mark.skipif(kernel and shutil.which("g++") is None, reason="needs g++")
    return pytest.param(number, *values, marks=skipped)


def test_the_exercises_are_numbered_and_each_has_a_solution():
    assert list(check.FILES) == list(range(1, 25))
    assert {file.name for file in SOLUTIONS.iterdir() if file.is_file()} == {
        file.name for file in check.FILES.values()
    }


@pytest.mark.parametrize("number", NUMBERS)
def test_an_untouched_exercise_is_not_started(number):
    assert check.check(number) == (NOT_STARTED, "")
    text = check.FILES[number].read_text()
    assert f"check.py {number}\n" in text  # the command in its own text
    assert "Hints" in text


@pytest.mark.parametrize("number", [mark(number) for number in NUMBERS])
def test_the_solution_passes(number):
    assert check.check(number, solution(number)) == (PASSED, "")


def changed(folder: Path, number: int, right: str, wrong: str) -> Path:
    """Write the solution with one change, and return its file."""
    source = solution(number).read_text()
    assert right in source, "the solution has changed: change it elsewhere"
    file = folder / check.FILES[number].name
    file.write_text(source.replace(right, wrong))
    return file


@pytest.mark.parametrize(("number", "right", "wrong", "words"), [mark(*row) for row in PLANTED])
def test_a_mistake_is_recognised(tmp_path, number, right, wrong, words):
    result = check.check(number, changed(tmp_path, number, right, wrong))
    assert result.state == NOT_PASSED
    assert words in result.message


@pytest.mark.parametrize(("number", "right", "other"), [mark(*row) for row in planted.RIGHT])
def test_another_right_solution_passes(tmp_path, number, right, other):
    assert check.check(number, changed(tmp_path, number, right, other)) == (PASSED, "")


def test_every_exercise_has_a_planted_mistake():
    assert {row[0] for row in PLANTED} == set(NUMBERS)


def conv2d(x, w, b):
    return reference.conv2d(x, w, b, 1, ((1, 1), (1, 1)))


@pytest.mark.parametrize(
    ("number", "forward", "specification", "shapes"),
    [
        (11, "silu", reference.silu, [(3, 4)]),
        (13, "group_norm", lambda *a: reference.group_norm(*a, 2, 0.1)[0],
         [(2, 3, 2, 4), (4,), (4,)]),
        (14, "conv2d", conv2d, [(2, 3, 4, 2), (3, 3, 2, 5), (5,)]),
        (15, "attention", lambda *a: reference.attention(*a, heads=1)[0], [(2, 5, 3)] * 3),
    ],
)  # fmt: skip
def test_a_forward_that_an_exercise_gives(number, forward, specification, shapes):
    """It is that of the reference, whose finite differences the check computes."""
    inputs = gradients.draw(*shapes)
    options = (2, 0.1) if forward == "group_norm" else ()
    got = getattr(load(check.FILES[number]), forward)(*inputs, *options)
    np.testing.assert_allclose(got, specification(*inputs), rtol=1e-9)


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Run check.py on a copy of the exercises in Python, of which 1 and 2 are solved."""
    files = {n: file for n, file in check.FILES.items() if file.suffix == ".py"}
    for n, file in files.items():
        copy = tmp_path / file.parent.name / file.name
        copy.parent.mkdir(exist_ok=True)
        copy.write_text((solution(n) if n < 3 else file).read_text())
        files[n] = copy
    monkeypatch.setattr(check, "FILES", files)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str):
        monkeypatch.setattr(sys, "argv", ["check.py", *arguments])
        try:
            code = cli.run(check.main)
        except SystemExit as stop:  # argparse
            code = stop.code
        return code, *capsys.readouterr()

    return run


def test_passed(command):
    assert command("2") == (0, f"02_posterior: passed\nnext: {L_SIMPLE}\n", "")


def test_not_started(command):
    code, stdout, _ = command("03")
    assert (code, stdout.splitlines()[0]) == (1, "03_l_simple: not started")
    assert f"the TODO in {L_SIMPLE}" in stdout


def test_not_passed(command, tmp_path):
    file = tmp_path / L_SIMPLE
    file.write_text(file.read_text().replace("raise NotImplementedError", "return x0.mean()"))
    code, stdout, _ = command("3")
    assert (code, stdout.splitlines()[0]) == (1, "03_l_simple: not passed")
    assert "The model was called 0 times" in stdout


def test_the_table(command):
    code, stdout, _ = command()
    assert code == 1
    lines = stdout.splitlines()
    assert lines[0] == "diffusion"
    assert [line.split() for line in lines[1:4]] == [
        ["01_q_sample", "passed"],
        ["02_posterior", "passed"],
        ["03_l_simple", "not", "started"],
    ]
    assert lines[-1] == f"next: {L_SIMPLE}"


def test_the_table_when_all_is_done(command, monkeypatch):
    monkeypatch.setattr(check, "FILES", {n: check.FILES[n] for n in (1, 2)})
    code, stdout, _ = command()
    assert (code, stdout.splitlines()[-1]) == (0, "all passed")


def test_a_wrong_number(command):
    refused(command("99"), "there is no exercise 99", "choose 1 .. ")
    refused(command("two"), "'two'")


def test_a_kernel_without_a_compiler(tmp_path, monkeypatch, capsys):
    file = tmp_path / "cuda" / solution(17).name
    file.parent.mkdir()
    shutil.copy(solution(17), file)
    monkeypatch.setattr(check, "FILES", {17: file})
    monkeypatch.setenv("PATH", str(tmp_path))
    build._compiler.cache_clear()
    monkeypatch.setattr(sys, "argv", ["check.py", "17"])
    code = cli.run(check.main)
    build._compiler.cache_clear()
    refused((code, *capsys.readouterr()), "needs g++, which is not installed")


PAGES = [  # of the last launch without an error, whether or not the exercise is passed
    (17, "i < n", "i < n", "map&lt;&lt;&lt;1, 64&gt;&gt;&gt;([64], [64], 1.5, -0.25, 64)"),
    (20, "[33]", "[32]", ">32-way<"),
    (20, "[33]", "[33]", ">1-way<"),
    (17, "if (i < n) ", "", "no page"),
]


@pytest.mark.parametrize(("number", "right", "other", "words"), [mark(*row) for row in PAGES])
def test_the_page_of_a_kernel(tmp_path, monkeypatch, capsys, number, right, other, words):
    folder, page = tmp_path / "cuda", tmp_path / "page.html"
    folder.mkdir()
    monkeypatch.setattr(check, "FILES", {number: changed(folder, number, right, other)})
    monkeypatch.setattr(sys, "argv", ["check.py", str(number), "--page", str(page)])
    assert cli.run(check.main) == (right != other)
    stdout = capsys.readouterr().out
    if words == "no page":
        assert words in stdout
        assert not page.exists()
        return
    assert f"page: {page}\n" in stdout
    text = page.read_text()
    assert words in text
    source = check.FILES[number].read_text()
    assert all(html.escape(line) in text for line in source.splitlines())


def test_only_kernels_have_a_page(command, tmp_path):
    page = tmp_path / "page.html"
    refused(command("1", "--page", str(page)), "exercise 1 is no kernel", "17 to 24")
    refused(command("--page", str(page)), "the number of an exercise")
    assert not page.exists()


ENDLESS = [
    (1, "def q_sample(*_):\n    while True:\n        pass\n", "01_q_sample.py:"),
    (17, 'extern "C" __global__ void map(const float* x, float* y, float a, float b, int n) {\n'
     "    while (n) y[0] = a;\n}\n", "in the kernel"),
]  # fmt: skip


@pytest.mark.parametrize(("number", "source", "words"), [mark(*row) for row in ENDLESS])
def test_an_endless_loop_ends(tmp_path, number, source, words):
    shutil.copytree(HERE, tmp_path / "exercises")
    (file,) = tmp_path.rglob(check.FILES[number].name)
    file.write_text(source)
    main = tmp_path / "exercises" / "check.py"
    main.write_text(main.read_text().replace("SECONDS = 120", "SECONDS = 2"))
    done = subprocess.run([sys.executable, main, str(number)], capture_output=True, text=True)
    assert done.returncode == 1
    assert "not passed\nIt ran for more than 2 seconds" in done.stdout
    assert words in done.stdout
