"""The cache of compiled kernels: damaged files, a full disk, a folder that cannot be written."""

import os
import subprocess
import sys
import tempfile

import pytest
from numba import njit

from minddpm.errors import InputError
from minddpm.kernels.cpu import cache
from minddpm.storage import cache_folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A cache folder of this test; what is compiled in it is small."""
    monkeypatch.setattr(cache, "directory", lambda: tmp_path)
    cache._not_kept.cache_clear()
    return tmp_path


def compiled(x):
    """Return x + 1 by a function compiled as kernels are, and whether its code was loaded."""
    with cache.own_cache():
        function = njit(cache=True)(_plus_one)
    assert function(x) == x + 1
    return sum(function.stats.cache_hits.values()) == 1


def _plus_one(x):
    return x + 1


def test_code_is_kept(folder):
    assert [compiled(1), compiled(1)] == [False, True]


DAMAGES = {
    "empty": lambda data: b"",
    "truncated": lambda data: data[: len(data) // 2],
    "zeros": lambda data: bytes(len(data)),
    "one bit": lambda data: data[:-200] + bytes([data[-200] ^ 1]) + data[-199:],
    "another pickle": lambda data: b"N.",
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
def test_a_damaged_file_is_compiled_anew(folder, suffix, damage):
    compiled(1)
    (path,) = folder.rglob(f"*.{suffix}")
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert not compiled(1)
    assert compiled(1)


def test_a_full_disk_is_said_once(folder, capsys, monkeypatch):
    def full(self, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache._CheckedFiles, "_open_for_write", full)
    for x in (1, 1.0):
        assert not compiled(x)
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "No space left" in message
    assert "XDG_CACHE_HOME" in message


def test_where_the_cache_cannot_be_written_a_temporary_folder_serves(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    folder = cache_folder.cache_directory("numba", "x")
    assert folder.is_dir()
    assert folder.is_relative_to(tempfile.gettempdir())

    def no_temporary_folder():
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(cache_folder, "_temporary", no_temporary_folder)
    with pytest.raises(InputError, match="set XDG_CACHE_HOME"):
        cache_folder.cache_directory("numba", "x")


def test_a_full_disk_is_no_cache(tmp_path, monkeypatch):
    def full(**_):
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder.cache_directory("a").is_relative_to(tmp_path)
    monkeypatch.setattr(cache_folder.tempfile, "TemporaryFile", full)
    assert not cache_folder.cache_directory("b").is_relative_to(tmp_path)


@pytest.mark.parametrize(
    ("variable", "words"),
    [
        ("NUMBA_DISABLE_JIT=1", ["NUMBA_DISABLE_JIT is set", "--backend numpy"]),
        ("NUMBA_NUM_THREADS=0", ["must be > 0", "NUMBA_"]),
        ("NUMBA_THREADING_LAYER=pigeons", ["pigeons", "choose omp or tbb or workqueue"]),
    ],
)
def test_a_wrong_variable_of_numba_gets_one_sentence(variable, words):
    code = "import sys, minddpm; from minddpm.commands import cli; sys.exit(cli.run({}))"
    code = code.format("lambda: minddpm.set_backend(sys.argv[1]) and None")
    environment = os.environ | dict([variable.split("=")])

    def run(backend):
        command = [sys.executable, "-c", code, backend]
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    done = run("numba")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert all(word in done.stderr for word in words), done.stderr
    if "LAYER" not in variable:  # "auto" goes on with NumPy, and says so
        done = run("auto")
        assert done.returncode == 0
        assert done.stderr.startswith("using NumPy")
