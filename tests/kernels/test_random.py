"""Philox against its published vectors, and the properties that resuming and batching need."""

import math

import numpy as np
import pytest

from minddpm import InputError, backend, random
from minddpm.kernels import reference

# kat_vectors of Random123 (Salmon et al. 2011) for philox4x32-10: counter, key, result.
PI = ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0))
KNOWN = [
    ((0,) * 4, (0,) * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (*PI, "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers(any_backend, counter, key, expected):
    words = backend.kernels.philox4x32(backend.xp.asarray([counter], dtype="uint32"), key)
    assert " ".join(f"{int(w):08x}" for w in words[0]) == expected


def test_a_stream_is_its_blocks_in_order():
    """Element i is word i % 4 of the block with counter (i // 4, step) and key (seed, purpose)."""
    step = 5 + (7 << 32)
    stream = reference.random_bits(np, 11, seed=3, purpose=9, step=step)
    for i, word in enumerate(stream):
        counter = np.array([[i // 4, 0, 5, 7]], np.uint32)
        assert word == reference.philox4x32(counter, (3, 9))[0, i % 4]


@pytest.mark.parametrize("kind", ["random_bits", "random_uniform", "random_normal"])
@pytest.mark.parametrize("first", [0, 1, 2, 3, 4, 5, 10])
@pytest.mark.parametrize("n", [1, 2, 7, 8])
def test_a_stream_can_be_drawn_in_parts(any_backend, kind, first, n):
    kernel = getattr(backend.kernels, kind)
    stream = kernel(backend.xp, 40, 1, 2, 3)
    part = kernel(backend.xp, n, 1, 2, 3, first)
    assert (part == stream[first : first + n]).all()


def test_backends_agree(any_backend):
    """Integers are equal in every bit, normals up to the rounding of log, sin and cos."""
    shape = (100_001,)
    bits = backend.kernels.random_bits(backend.xp, 1001, 5, 6, 7)
    assert (backend.to_numpy(bits) == reference.random_bits(np, 1001, 5, 6, 7)).all()
    z = backend.to_numpy(random.normal(shape, 5, 6, 7))
    assert z.dtype == np.float32
    np.testing.assert_allclose(z, reference.random_normal(np, *shape, 5, 6, 7), atol=1e-6)


def test_numbas_log_and_cosine_at_the_ends_of_their_ranges():
    """Where the exponent of u1 or the quarter turn of u2 changes, and at both ends."""
    from minddpm.kernels.cpu.philox import box_muller

    powers = [2**k for k in range(25)] + [round(2 ** (k - 0.5)) for k in range(1, 25)]
    ends = {min(max(p + d, 1), 2**24) for p in powers for d in (-1, 0, 1)}
    turns = [n + d for n in range(0, 2**24 + 1, 2**21) for d in (-1, 0, 1)]
    for n1 in ends:
        r = math.sqrt(-2 * math.log(n1 / 2**24))
        for n2 in (n % 2**24 for n in turns):
            z = box_muller(np.uint64((n1 - 1) << 8), np.uint64(n2 << 8))
            angle = 2 * math.pi * n2 / 2**24
            np.testing.assert_allclose(
                z, [r * math.cos(angle), r * math.sin(angle)], rtol=2e-9, atol=1e-14
            )


def test_seed_purpose_and_step_all_change_the_numbers():
    keys = [(s, p, t) for s in (0, 1) for p in (0, 1) for t in (0, 1, 2**32)]
    assert len({tuple(random.bits(8, *key)) for key in keys}) == len(keys)


def test_normals_have_the_moments_of_a_normal():
    """n = 10^6: the k-th raw moment's standard error is sqrt(E z^2k - (E z^k)^2) / 1000."""
    z = random.normal((1_000_000,), 0, random.CHECK).astype(np.float64)
    for k, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((z**k).mean() - moment) < 4 * math.sqrt(variance) / 1000
    assert abs((z[:-1] * z[1:]).mean()) < 4 / 1000  # the two of a pair are independent
    assert 4.5 < np.abs(z).max() <= math.sqrt(-2 * math.log(2**-24))


def test_uniforms_stay_below_one_and_integers_below_high():
    u = random.uniform((100_000,), 0, random.CHECK)
    assert u.dtype == np.float32
    assert u.min() >= 0
    assert u.max() < 1
    assert abs(u.mean() - 0.5) < 4 * math.sqrt(1 / 12 / 1e5)
    counts = np.bincount(random.integers(10, 100_000, 0, random.CHECK), minlength=10)
    assert len(counts) == 10
    assert ((counts - 1e4) ** 2 / 1e4).sum() < 28  # chi-square, 9 degrees: p = 0.001


def test_permutation_contains_every_index_once():
    order = random.permutation(1000, 0, random.SHUFFLE, 3)
    assert sorted(order) == list(range(1000))
    assert (order != random.permutation(1000, 0, random.SHUFFLE, 4)).any()


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, True, "7"])
def test_a_bad_seed_is_refused(seed):
    with pytest.raises(InputError, match=r"choose 0 \.\. 4294967295"):
        random.normal((1,), seed, 0)
