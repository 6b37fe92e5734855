"""Power spectra: how much detail images have at each scale.

The power at a frequency (fx, fy), in cycles per pixel, is |F|^2 / (H W) of the two-dimensional
discrete Fourier transform F of an image. Averaged over images and over all directions it depends on
the radius sqrt(fx^2 + fy^2) alone: from 0, one wave in many pixels, to 1/2, a wave of two pixels.
Blur removes power at high frequencies, noise and artificially sharp edges add it there.
White noise of variance s^2 has the power s^2 at every frequency; the powers of all frequencies add
up to H W times the mean square of the pixels (Parseval).
"""

import numpy as np

FINE = 0.25  # cycles per pixel: from here on, details of less than four pixels


def power_spectrum(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the frequencies and the mean power at each, both float64 [n].

    images [N, H, W, C], uint8 or float in 0 .. 255; the power is that of pixels in 0 .. 1. The
    frequencies k / max(H, W), k = 1, 2, ... up to 1/2, are the middles of rings of equal width:
    each power is the mean over the frequencies nearest to that radius. The brightness of the whole
    image, at radius 0, is left out. No window: beyond an image's edge the transform continues with
    the opposite edge, so that images whose borders differ have power there.
    """
    _, H, W, _ = images.shape
    radius = np.hypot(np.fft.fftfreq(H)[:, None], np.fft.fftfreq(W))
    ring = np.rint(radius * max(H, W)).astype(int)
    # A part at a time: the transform is complex, 32 times the size of uint8.
    parts = np.array_split(images, max(1, len(images) // 500))
    transforms = (np.fft.fft2(part / 255, axes=(1, 2)) for part in parts)
    power = sum((abs(F) ** 2).sum(axis=(0, 3)) for F in transforms)
    power = power / (images.shape[0] * images.shape[3] * H * W)
    sums, counts = np.bincount(ring.ravel(), power.ravel()), np.bincount(ring.ravel())
    rings = np.arange(1, max(H, W) // 2 + 1)
    return rings / max(H, W), sums[rings] / counts[rings]


def fine_power(images: np.ndarray) -> float:
    """Return the mean over the frequencies of at least FINE of their power."""
    frequencies, power = power_spectrum(images)
    return float(power[frequencies >= FINE].mean())
