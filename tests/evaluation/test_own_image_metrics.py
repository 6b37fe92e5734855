"""Metrics of images of any kind: the wavelet features, and the reference values of a folder."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from minddpm.data import ImageDataset
from minddpm.errors import InputError
from minddpm.evaluation.metrics.frechet import frechet_distance
from minddpm.evaluation.metrics.statistics import FeatureStatistics
from minddpm.evaluation.metrics.wavelets import Wavelets
from minddpm.evaluation.own_images import (
    HALF,
    REAL,
    SHUFFLED,
    OwnReference,
    blurred,
    evaluate_own,
    half_of_the_classes,
)
from minddpm.evaluation.report import shuffled_pixels

N = 300


def shapes(count=2 * N, size=16, seed=0):
    """Return uint8 images of four shapes in random colours, and which shape each shows."""
    rng, images = np.random.default_rng(seed), []
    for i in range(count):
        dark, light = (tuple(int(c) for c in rng.integers(*r, 3)) for r in ((0, 80), (120, 256)))
        image = Image.new("RGB", (4 * size, 4 * size), dark)
        r = rng.uniform(0.6, 1.4) * size
        x, y = rng.uniform(r, 4 * size - r, 2)
        pen = ImageDraw.Draw(image)
        box = (x - r, y - r, x + r, y + r)
        draw = (pen.ellipse, pen.rectangle, pen.line, pen.polygon)[i % 4]
        draw([(x, y - r), (x - r, y + r), (x + r, y + r)] if i % 4 == 3 else box, fill=light)
        images.append(np.asarray(image.resize((size, size))))
    return np.stack(images), np.arange(count) % 4


def photographs():
    """Return tiles of two photographs in scikit-learn, of 16 x 16, and from which each is."""
    sklearn = pytest.importorskip("sklearn.datasets")
    rng, images = np.random.default_rng(2), []
    whole = [sklearn.load_sample_image(f"{name}.jpg") for name in ("china", "flower")]
    for i in range(2 * N):
        y, x = rng.integers(0, (427 - 64, 640 - 64))
        tile = Image.fromarray(whole[i % 2][y : y + 64, x : x + 64])
        images.append(np.asarray(tile.resize((16, 16))))
    return np.stack(images), np.arange(2 * N) % 2


@pytest.fixture(scope="module")
def drawn():
    return shapes()


@pytest.fixture(scope="module", params=[shapes, photographs], ids=["shapes", "photographs"])
def real(request):
    return request.param()


def as_grey(images):
    return images.mean(axis=3, keepdims=True).astype(np.uint8)


def noisy(images, amount, rng):
    return np.clip(images + rng.normal(0, amount, images.shape), 0, 255).astype(np.uint8)


def compressed(images, quality):
    results = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        results.append(np.asarray(Image.open(file)))
    return np.stack(results)


def tinted(images, amount):
    return np.clip(images * np.array([1 + amount, 1, 1 - amount]), 0, 255).astype(np.uint8)


def of_classes(images, labels, kept):
    return images[np.resize(np.flatnonzero(labels < kept), len(images))]


def repeated(images, kept):
    return images[np.resize(np.arange(kept), len(images))]


def moved_parts(images, parts, rng):
    """Return the images with parts x parts tiles in a random order."""
    n, H, _, C = images.shape
    h = H // parts
    tiles = images.reshape(n, parts, h, parts, h, C).swapaxes(2, 3).reshape(n, -1, h, h, C)
    mixed = np.stack([t[rng.permutation(parts**2)] for t in tiles])
    return mixed.reshape(n, parts, parts, h, h, C).swapaxes(2, 3).reshape(images.shape)


def soft(images, times):
    for _ in range(times):
        images = blurred(images)
    return images


@pytest.mark.parametrize(
    "worse",
    [
        lambda x, y, rng: [noisy(x, s, rng) for s in (4, 12, 36)],
        lambda x, y, rng: [soft(x, times) for times in (2, 5, 10)],
        lambda x, y, rng: [compressed(x, quality) for quality in (75, 40, 10)],
        lambda x, y, rng: [tinted(x, s) for s in (0.1, 0.25, 0.5)],
        lambda x, y, rng: [of_classes(x, y, kept) for kept in (3, 2, 1)],
        lambda x, y, rng: [repeated(x, kept) for kept in (100, 40, 10)],
        lambda x, y, rng: [moved_parts(x, parts, rng) for parts in (2, 4, 8)],
    ],
    ids=["noise", "blur", "compression", "colour", "classes", "repetitions", "moved parts"],
)
def test_the_distance_grows_with_each_known_degradation(real, worse):
    images, labels = real
    rng, features = np.random.default_rng(1), Wavelets().features
    a, b, of_b = images[:N], images[N:], labels[N:]
    reference = FeatureStatistics(features(a))
    distances = [
        frechet_distance(reference, FeatureStatistics(features(x)))
        for x in (b, *worse(b, of_b, rng))
    ]
    assert distances == sorted(distances)
    assert distances[-1] > 3 * distances[0]


@pytest.mark.parametrize("C", [1, 3])
@pytest.mark.parametrize("size", [(2, 3), (8, 8), (7, 21), (64, 48)])
def test_images_of_any_size_have_finite_features(size, C):
    images = np.random.default_rng(0).integers(0, 256, (3, *size, C), dtype=np.uint8)
    features = Wavelets().features(images)
    assert np.isfinite(features).all()
    np.testing.assert_array_equal(features[1:2], Wavelets().features(images[1:2]))


def test_the_features_of_images_that_can_be_computed_by_hand():
    images = np.zeros((3, 8, 8, 1), np.uint8)  # -1, and where it is 255: 1
    images[0, :, 4:] = 255  # the right half
    images[1, 4:] = 255  # the lower half
    images[2, ::2, ::2] = images[2, 1::2, 1::2] = 255  # a chessboard
    deviations, cells, bands = np.split(Wavelets().features(images), [1, 17], axis=1)
    np.testing.assert_allclose(deviations, 1, rtol=1e-6)
    expected = [[-1, -1, 1, 1] * 4, [-1] * 8 + [1] * 8, [0] * 16]
    np.testing.assert_allclose(cells, expected, atol=1e-6)
    # One row or column of seven differs, by 2; of the chessboard, every diagonal does.
    energies = np.array([[0, 2 / 7, 0], [2 / 7, 0, 0], [0, 0, 2]])
    np.testing.assert_allclose(bands, np.log(1 / 16 + energies), rtol=1e-5)


def test_the_colours_are_differences_of_channels():
    images = np.zeros((1, 8, 8, 3), np.uint8)
    images[:, :4, :4] = 255, 0, 0  # red in a quarter
    features = Wavelets().features(images)[0]
    # Light, red-blue and green-magenta are -1, 0, 0 of black and -1/3, 1, -1/2 of red.
    cells = features[3 + 16 :][:8].reshape(4, 2)
    np.testing.assert_allclose(cells, [[1, -0.5], [0, 0], [0, 0], [0, 0]], atol=1e-6)


def test_the_reference_values_of_a_folder(drawn):
    images, labels = drawn
    reference = OwnReference(Wavelets(), ImageDataset(images, labels, "shapes"), 1000)
    assert reference.n == N
    assert not set(reference.held) & set(reference.rest)
    fresh, of_fresh = shapes(seed=5)
    by_class = fresh[np.argsort(of_fresh)]  # as in class folders
    rows = evaluate_own(reference, by_class, {"samples": "a.npz"})
    fid = rows["fid"]
    assert fid["value"] < 1.5 * fid["floor"] < fid["scale"][HALF] < fid["ceiling"]
    assert (fid["scale"][REAL], fid["scale"][SHUFFLED]) == (fid["floor"], fid["ceiling"])
    assert abs(fid["value"] - fid["floor"]) < 5 * fid["standard_error"]
    assert (fid["n"], fid["samples"]) == (N, "a.npz")
    assert rows["recall"]["value"] > 0.7 > rows["recall"]["scale"][HALF]
    assert rows["precision"]["value"] > 0.7 > rows["precision"]["ceiling"]
    assert rows["kid"]["value"] < rows["kid"]["scale"][HALF]


def test_too_few_images_are_refused(drawn):
    few = ImageDataset(drawn[0][:60], None, "few")
    with pytest.raises(InputError, match=r"few: the covariance of 45 features .* at least 92"):
        OwnReference(Wavelets(), few, 1000)
    with pytest.raises(InputError, match=r"45 samples are too few .* at least 46"):
        OwnReference(Wavelets(), ImageDataset(drawn[0], None, "many"), 45)


def test_images_made_worse(drawn):
    images, labels = drawn
    assert (
        np.abs(np.diff(blurred(images)[0].astype(int), axis=0)).mean()
        < 0.95 * np.abs(np.diff(images[0].astype(int), axis=0)).mean()
    )
    assert blurred(as_grey(images[:2])).shape == (2, 16, 16, 1)
    shuffled = shuffled_pixels(images[:3])
    for before, after in zip(images, shuffled, strict=False):
        assert sorted(map(tuple, before.reshape(-1, 3))) == sorted(map(tuple, after.reshape(-1, 3)))
    chosen = half_of_the_classes(labels[:10])
    assert len(chosen) == 10
    assert set(labels[chosen]) == {0, 1}
    assert half_of_the_classes(np.zeros(4, np.int64)) is None
