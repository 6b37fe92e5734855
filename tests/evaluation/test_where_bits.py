"""The bits of the bound by noise and brightness."""

import numpy as np
import pytest
from builders import TINIEST

import minddpm
from minddpm import GaussianDiffusion, UNet2D
from minddpm.data import ImageDataset, to_float
from minddpm.diffusion.schedules import linear
from minddpm.evaluation.metrics.where_bits import PARTS, shares_table, where_bits

T = 30


@pytest.fixture(scope="module")
def model():
    minddpm.manual_seed(0)
    unet = UNet2D(**{**TINIEST, "out_channels": 2}).eval()
    for p in unet.parameters():  # the zero weights of new layers would hide x and t
        p.data[...] += minddpm.random.normal(p.shape, 1, 0) * 0.05
    return unet, GaussianDiffusion(linear(T), variance="learned_range")


def dataset(pixels):
    return ImageDataset(np.asarray(pixels, np.uint8), None, "test")


def images(N, levels, seed=0):
    return np.random.default_rng(seed).choice(levels, (N, 8, 8, 1))


def test_the_shares_add_up_to_the_exact_bound(model):
    """The estimate's mean over many draws is the sum over all t, and L_0 is the decoder's."""
    unet, d = model
    data = dataset(images(2, [0, 7, 251, 252, 255]))
    x0 = to_float(data.images)
    every = np.array([d.bits_per_dim(unet, x0, seed).terms.mean(axis=0) for seed in range(8)])
    runs = [where_bits(unet, d, data, 2, seed=seed) for seed in range(60)]
    for i, share in enumerate(runs[0]):
        exact = every[:, share.first : share.last].sum(axis=1)
        drawn = np.array([sum(shares[i][4:]) for shares in runs])
        error = np.sqrt(exact.var() / len(exact) + drawn.var() / len(drawn))
        assert abs(exact.mean() - drawn.mean()) < 5 * error
        assert error < 0.3 * exact.mean()
    assert [share.first for share in runs[0]][:2] == [0, 1]
    assert runs[0][-1].last == T
    assert len(runs[0]) == PARTS + 1


@pytest.mark.parametrize(
    ("levels", "kind"), [([0], "black"), ([1, 251], "grey"), ([252, 255], "white")]
)
def test_images_of_one_kind_have_bits_of_that_kind_alone(model, levels, kind):
    shares = where_bits(*model, dataset(images(3, levels)), 3)
    for share in shares:
        assert getattr(share, kind) > 0
        assert sum(share[4:]) == getattr(share, kind)


def test_the_batch_size_does_not_matter(model):
    data = dataset(images(5, [0, 100, 254]))
    one, other = (where_bits(*model, data, 5, batch_size=size) for size in (5, 2))
    np.testing.assert_allclose(np.array(one), np.array(other), rtol=1e-5)


def test_the_table_has_the_log_snr_and_the_sums(model):
    d = model[1]
    shares = where_bits(*model, dataset(images(2, [0, 100, 254])), 2)
    head, rows = shares_table(shares)
    assert head == ["t", "log SNR", "black", "grey", "white", "bits/dim"]
    ac = d.alphas_cumprod
    assert rows[0][:2] == ["0", f"{np.log(ac[0] / (1 - ac[0])):.1f}"]
    last = shares[-1]
    ends = [f"{np.log(ac[t] / (1 - ac[t])):.1f}" for t in (last.first, T - 1)]
    assert rows[PARTS][:2] == [f"{last.first} .. {T - 1}", " .. ".join(ends)]
    total = sum(sum(share[4:]) for share in shares)
    assert rows[-1] == [
        "all", "", *(f"{sum(s[i] for s in shares):.4f}" for i in (4, 5, 6)), f"{total:.4f}"
    ]  # fmt: skip
