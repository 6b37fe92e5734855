"""The power spectrum against spectra that are known."""

import math

import numpy as np
import pytest

from minddpm.evaluation.metrics.spectrum import fine_power, power_spectrum


def waves(H, W, fy, fx, amplitude):
    """Return one image [1, H, W, 1] of a cosine around 128."""
    y, x = np.mgrid[:H, :W]
    image = 128 + amplitude * np.cos(2 * math.pi * (fy * y + fx * x))
    return image[None, :, :, None]


@pytest.mark.parametrize("size", [(28, 28), (12, 20)])
def test_white_noise_has_its_variance_at_every_frequency(size):
    noise = 51 * np.random.default_rng(0).standard_normal((3000, *size, 1))
    frequencies, power = power_spectrum(128 + noise)
    np.testing.assert_allclose(frequencies, np.arange(1, max(size) // 2 + 1) / max(size))
    np.testing.assert_allclose(power, 0.2**2, rtol=0.03)  # the first ring has 8 frequencies or 3
    assert fine_power(128 + noise) == pytest.approx(0.2**2, rel=0.01)


@pytest.mark.parametrize(("fy", "fx", "ring"), [(0, 5, 5), (3, 4, 5), (-9, 2, 9), (0, 14, 14)])
def test_a_wave_has_power_at_its_frequency_alone(fy, fx, ring):
    """A cosine has |F| = A H W / 2 at two frequencies, or A H W at the one of two pixels."""
    _, power = power_spectrum(waves(28, 28, fy / 28, fx / 28, amplitude=51))
    k = np.rint(28 * np.hypot(*np.meshgrid(np.fft.fftfreq(28), np.fft.fftfreq(28))))
    at_peaks = 0.2**2 * 28**2 * (1.0 if ring == 14 else 2 / 4)
    assert power[ring - 1] == pytest.approx(at_peaks / (k == ring).sum())
    assert np.delete(power, ring - 1).max() < 1e-20


@pytest.mark.parametrize("channels", [1, 3])
def test_a_blur_multiplies_by_its_transfer_function(channels):
    """A point has the same power everywhere. The blur (1, 2, 1) / 4 has the transfer function

    1/2 + cos(2 pi f) / 2 = cos(pi f)^2, here applied along both axes.
    """
    n = 24
    point = np.zeros((1, n, n, channels))
    point[0, 5, 9] = 255
    _, flat = power_spectrum(point)
    np.testing.assert_allclose(flat, 1 / n**2)
    blurred = point
    for axis in (1, 2):
        shifted = (np.roll(blurred, s, axis=axis) for s in (-1, 1))
        blurred = blurred / 2 + sum(shifted) / 4
    f = np.fft.fftfreq(n)
    transfer = np.outer(np.cos(math.pi * f) ** 4, np.cos(math.pi * f) ** 4)
    radius = np.hypot(f[:, None], f) * n
    expected = [transfer[abs(radius - k) < 0.5].mean() for k in range(1, n // 2 + 1)]
    _, power = power_spectrum(blurred)
    np.testing.assert_allclose(power / flat, expected, rtol=1e-12)
    assert fine_power(blurred) == pytest.approx(np.mean(expected[5:]) / n**2)


def test_the_powers_add_up_to_the_mean_square():
    """Parseval, with the frequency 0 and the corners beyond 1/2 removed from the images."""
    images = np.random.default_rng(1).integers(0, 256, (3, 16, 16, 1)).astype(float)
    f = np.fft.fftfreq(16)
    ring = np.rint(np.hypot(f[:, None], f) * 16)[None, :, :, None]
    kept = np.fft.fft2(images, axes=(1, 2)) * ((ring > 0) & (ring <= 8))
    images = np.fft.ifft2(kept, axes=(1, 2)).real
    _, power = power_spectrum(images)
    counts = [(ring == k).sum() for k in range(1, 9)]
    assert (power * counts).sum() == pytest.approx(((images / 255) ** 2).mean() * 16**2)
