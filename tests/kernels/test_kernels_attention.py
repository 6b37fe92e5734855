"""Attention kernels against the naive loops, on awkward sizes."""

import numpy as np
from builders import draw
from hypothesis import given
from hypothesis import strategies as st
from kernel_checks import check, device, few_examples

import naive
from minddpm import backend
from minddpm.kernels import reference

ATTENTION = given(
    N=st.integers(1, 3), L=st.sampled_from([1, 4, 9, 15, 16, 17, 33, 49]),
    heads=st.integers(1, 3), D=st.sampled_from([1, 5, 8, 32]), seed=st.integers(0, 99),
)  # fmt: skip


def forward_and_backward(gy, q, k, v, heads):
    """Return y, and gq, gk and gv."""
    y, saved = backend.kernels.attention(q, k, v, heads)
    return y, backend.kernels.attention_backward(gy, q, k, v, saved, heads)


@few_examples
@ATTENTION
def test_attention(any_backend, N, L, heads, D, seed):
    q, k, v = draw(seed, *[(N, L, heads * D)] * 3)
    expected = naive.attention(*(a.astype(np.float64) for a in (q, k, v)), heads)
    check(backend.kernels.attention(*device(q, k, v), heads)[0], expected)


@few_examples
@ATTENTION
def test_attention_backward(any_backend, N, L, heads, D, seed):
    """Against the float64 reference, which test_gradcheck.py checks by finite differences."""
    arrays = draw(seed, *[(N, L, heads * D)] * 4)
    expected = reference.attention_backward(*(a.astype(np.float64) for a in arrays), (), heads)
    _, results = forward_and_backward(*device(*arrays), heads)
    for result, value in zip(results, expected, strict=True):
        check(result, value)


def test_attention_passes_a_nan_on_only_within_its_head(any_backend):
    q, k, v, gy = draw(0, *[(3, 17, 3 * 8)] * 4)
    k[1, 16, 8 + 2] = np.nan  # the last key of image 1 and head 1
    expected = np.zeros(q.shape, bool)
    expected[1, :, 8:16] = True
    y, gradients = forward_and_backward(*device(gy, q, k, v), 3)
    for result in (y, *gradients):
        assert (np.isnan(backend.to_numpy(result)) == expected).all()


def test_attention_with_huge_scores_is_stable(any_backend):
    """exp(1000) overflows; the softmax of such scores is 1 at the largest."""
    q = np.full((1, 2, 4), 100, np.float32)
    k = np.stack([q[0, 0], -q[0, 0]])[None]
    (v,) = draw(0, (1, 2, 4))
    y, _ = backend.kernels.attention(*device(q, k, v), 1)
    check(y, np.stack([v[:, 0], v[:, 0]], axis=1))
