"""Data sets called by name: Fashion-MNIST, KMNIST, CIFAR-10, and their download.

No test uses the network: every file here is tiny and written by the test.
"""

import hashlib
import io
import subprocess
import sys
import tarfile
import threading
import urllib.error

import numpy as np
import pytest
from builders import write_digits

from minddpm.data import named
from minddpm.data.cifar import FILES, RECORD
from minddpm.data.download import DownloadError
from minddpm.data.fetch import Remote, fetch
from minddpm.data.named import load_named
from refusals import refused

CONTENT = bytes(range(256)) * 5
REMOTE = Remote("https://example.org/a.bin", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


class Web:
    """Replaces urlopen: sends `content`, from the requested byte if it can continue."""

    def __init__(self, content=CONTENT, breaks_at=None, continues=True):
        self.content, self.breaks_at, self.continues, self.ranges = (
            content,
            breaks_at,
            continues,
            [],
        )

    def __call__(self, request, timeout):
        asked = request.get_header("Range")
        self.ranges.append(asked)
        first = int(asked[6:-1]) if asked and self.continues else 0
        response = Response(self.content[first:])
        response.status = 206 if asked and self.continues else 200
        response.breaks_at, self.breaks_at = self.breaks_at, None
        return response


class Response(io.BytesIO):
    def read(self, size):
        if self.breaks_at is None:
            return super().read(size)
        if self.tell() >= self.breaks_at:
            raise ConnectionResetError("the connection broke")
        return super().read(self.breaks_at)


@pytest.fixture
def web(monkeypatch):
    def use(**settings):
        answers = Web(**settings)
        monkeypatch.setattr("urllib.request.urlopen", answers)
        return answers

    return use


@pytest.mark.parametrize("continues", [True, False])
def test_a_broken_download_is_continued(web, tmp_path, continues):
    answers = web(breaks_at=500, continues=continues)
    with pytest.raises(DownloadError, match=r"the connection broke.*continues"):
        fetch(REMOTE, tmp_path)
    assert [(p.name, p.stat().st_size) for p in tmp_path.iterdir()] == [("a.bin.part", 500)]
    fetch(REMOTE, tmp_path)
    assert answers.ranges == [None, "bytes=500-"]
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("content", "reason"),
    [(CONTENT[::-1], "SHA-256 differs"), (CONTENT + b"x", "is larger"), (CONTENT[:9], "sent 9 of")],
)
def test_another_file_never_gets_the_name(web, tmp_path, content, reason):
    web(content=content)
    with pytest.raises(DownloadError, match=reason):
        fetch(REMOTE, tmp_path)
    assert not (tmp_path / "a.bin").exists()
    web()
    fetch(REMOTE, tmp_path)  # what remains of it does no harm
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


HOLDER = """
import pathlib, sys
from minddpm.storage.lock import lock
held, path = lock(pathlib.Path(sys.argv[1])), pathlib.Path(sys.argv[1], "a.bin")
print(flush=True)
sys.stdin.readline()
path.with_name("a.bin.part").write_bytes(bytes(range(256)) * 5)
path.with_name("a.bin.part").rename(path)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no locks on Windows")
def test_two_processes_that_download_the_same_file(web, tmp_path):
    answers = web()
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:500])
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()  # it has the lock
        mine = threading.Thread(target=fetch, args=(REMOTE, tmp_path))
        mine.start()
        mine.join(0.2)
        assert mine.is_alive()  # it waits
        other.communicate(b"\n")
        mine.join(10)
    assert answers.ranges == []
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_only_all_files_of_cifar10_are_not_downloaded(monkeypatch, tmp_path):
    folder, fetched = tmp_path / "minddpm" / "cifar10", []

    def fail(remote, _):
        fetched.append(remote.name)
        raise DownloadError("no network")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(named, "fetch", fail)
    folder.mkdir(parents=True)
    for name in FILES["train"]:
        (folder / name).write_bytes(records(1, 0))
    with refused("no network"):
        load_named("cifar10")
    (folder / "test_batch.bin").write_bytes(records(1, 0))
    assert len(load_named("cifar10")) == 5
    (tmp_path / "minddpm" / "kmnist").mkdir()
    (tmp_path / "minddpm" / "kmnist" / FILES["train"][0]).write_bytes(b"of another set")
    with refused("no network"):
        load_named("kmnist")
    assert fetched == ["cifar-10-binary.tar.gz", "train-images-idx3-ubyte.gz"]


@pytest.mark.parametrize("name", ["fashion-mnist", "kmnist", "cifar10"])
def test_without_a_network_one_sentence_says_what_to_put_where(name, monkeypatch, tmp_path):
    def no_network(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", no_network)
    with refused(
        "no network", f"put {named._SETS[name].files[0].name}", tmp_path / "minddpm" / name
    ):
        load_named(name)


def test_the_files_of_a_folder(tmp_path):
    write_digits(tmp_path)
    for name, first in (("mnist", "0"), ("fashion-mnist", "T-shirt"), ("kmnist", "o")):
        data = load_named(name, tmp_path)
        assert data.images.shape[1:] == (28, 28, 1)
        assert data.label_names[0] == first
        assert len(load_named(name, tmp_path, "test")) == 30


def records(n, first):
    """Return CIFAR-10's bytes of n images, whose planes are 10, 20, 30 but for the first pixel."""
    rows = np.zeros((n, RECORD), np.uint8)
    rows[:, 0] = np.arange(n) % 10
    for plane, value in enumerate((10, 20, 30)):
        rows[:, 1 + 1024 * plane : 1 + 1024 * (plane + 1)] = value
    rows[:, 1 + 1] = first  # red of row 0, column 1
    return rows.tobytes()


@pytest.mark.parametrize("packed", [True, False])
def test_cifar10(tmp_path, packed):
    for i, name in enumerate([*FILES["train"], *FILES["test"]]):
        (tmp_path / name).write_bytes(records(3, 100 + i))
    if packed:
        with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as archive:
            for file in sorted(tmp_path.glob("*.bin")):
                archive.add(file, f"cifar-10-batches-bin/{file.name}")
                file.unlink()
    data = load_named("cifar10", tmp_path)
    assert data.images.shape == (15, 32, 32, 3)
    assert data.images[:, 0, 1].tolist() == [[100 + i // 3, 20, 30] for i in range(15)]
    assert (data.images[:, 1:] == (10, 20, 30)).all()
    assert data.labels.tolist() == [0, 1, 2] * 5
    assert data.label_names[2] == "bird"
    assert load_named("cifar10", tmp_path, "test").images[0, 0, 1, 0] == 105


def test_damaged_cifar10_is_refused(tmp_path):
    with refused("neither cifar-10-binary.tar.gz", "put CIFAR-10's binary version there"):
        load_named("cifar10", tmp_path)
    for name in FILES["train"]:
        (tmp_path / name).write_bytes(records(2, 0))
    (tmp_path / FILES["train"][1]).write_bytes(records(2, 0)[:-1])
    with refused("data_batch_2.bin has 6,145 bytes", "again"):
        load_named("cifar10", tmp_path)
    (tmp_path / FILES["train"][1]).write_bytes(b"\x0b" + records(1, 0)[1:])
    with refused("label 11"):
        load_named("cifar10", tmp_path)
    (tmp_path / FILES["train"][1]).unlink()
    (tmp_path / FILES["train"][3]).unlink()
    with refused("nor data_batch_2.bin, data_batch_4.bin:"):
        load_named("cifar10", tmp_path)
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(b"\x1f\x8b damaged")
    with refused("cifar-10-binary.tar.gz is damaged"):
        load_named("cifar10", tmp_path)
