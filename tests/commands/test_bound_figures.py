"""Figures of where the bits of the bound are."""

import numpy as np
import pytest
from builders import TINIEST, random_unet
from PIL import Image

from minddpm import GaussianDiffusion
from minddpm.commands.bound_figures import bits_of_pixels, draw_bound
from minddpm.diffusion.schedules import linear

T = 25


@pytest.fixture
def images():
    levels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1))
    levels[:, :4] = 0
    return (levels / 127.5 - 1).astype(np.float32)


def test_the_bits_of_pixels_and_the_terms_have_one_mean(images):
    d, unet = GaussianDiffusion(linear(T)), random_unet(TINIEST)
    bits = bits_of_pixels(d, unet, images, seed=4)
    assert bits.shape == (T, 8, 8, 1)
    terms = d.bits_per_dim(unet, images, seed=4).terms
    np.testing.assert_allclose(bits.mean(axis=(1, 2, 3)), terms.mean(axis=0), rtol=1e-9)


def test_the_pixels_in_the_figure_are_those_with_the_bits(images, tmp_path, capsys):
    """A model that knows the upper half: only the lower half is bright."""
    d = GaussianDiffusion(linear(T), "x0")
    known = np.where(np.arange(8)[:, None, None] < 4, images[:1], -images[:1])
    draw_bound(d, lambda x, t: np.repeat(known, len(x), axis=0), images[:1], "it", tmp_path)
    out = capsys.readouterr().out
    total = d.bits_per_dim(lambda x, t: known, images[:1]).total[0]
    assert out.startswith(f"it: {total:.4f} bits/dim on 1 digits, ")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "bound.png", "bound_pixels.png", "bound_snr.png",
    ]  # fmt: skip
    pixels = np.asarray(Image.open(tmp_path / "bound_pixels.png").convert("L"))
    (top, left), size = (len(pixels) - 2 - 48, 2), 48
    for column in range(3):
        part = pixels[top : top + size, left + column * 50 :][:, :size]
        assert part[26:46].max() > 80, column
        if column:  # L_0 of a known pixel is not 0: sigma_0 is wider than a level
            assert part[:24].max() < 30, column
