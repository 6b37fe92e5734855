"""Every CUDA kernel against the reference, run by the emulator in three orders of its threads.

The convolutions and linear layers are in test_cuda_convolution.py.
"""

import sys
from functools import partial

import numpy as np
import pytest
from cuda_checks import (
    SIZES,
    check,
    check_kernel,
    draw,
    few_examples,
    flat,
    in_every_order,
    needs_compiler,
)
from hypothesis import example, given
from hypothesis import strategies as st

from minddpm.gpucheck.cases import four_calls
from minddpm.kernels import cuda, reference
from minddpm.kernels.cuda import column, fused, ladder, peak, winograd
from minddpm.kernels.cuda.launch import FOLDER
from minddpm.kernels.emulator import cupy_on_cpu

pytestmark = [needs_compiler, pytest.mark.usefixtures("emulated_kernels")]


# A formula, and what works on any array.
REFERENCE = {"constant_weights", "philox4x32", "set_to_zero"}


def test_the_set_has_every_function_of_the_reference():
    functions = {
        name
        for name, value in vars(reference).items()
        if callable(value) and name in reference.__all__
    }
    assert functions <= set(cuda.__all__)
    own = {name for name in cuda.__all__ if getattr(cuda, name) is not getattr(reference, name)}
    assert functions - own == REFERENCE


def test_float64_goes_to_the_reference():
    x = np.linspace(-3, 3, 7)
    y = cuda.silu(cupy_on_cpu.asarray(x))
    assert y.dtype == np.float64
    np.testing.assert_array_equal(y.get(), reference.silu(x))


def test_one_argument_too_many_is_refused():
    with pytest.raises(TypeError, match="positional"):
        cuda.silu(np.ones(3, np.float32), 2)


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.cu*")), ids=lambda file: file.name)
def test_a_kernel_needs_no_header_of_cuda(file):
    """CuPy compiles it wherever it is installed, also without CUDA's toolkit."""
    assert "#include <" not in file.read_text()


# --- pointwise.cu --------------------------------------------------------------------------------


@few_examples
@given(n=st.integers(1, 700), seed=st.integers(0, 99))
def test_silu_and_add(n, seed):
    x, gy = draw(seed, n, n)
    x *= 30
    x[0] = -200  # e^200 is beyond float32
    check_kernel("silu", x)
    check_kernel("silu_backward", gy, x)
    check_kernel("add", gy, x)

    def in_place(total, x, total2, x2):
        totals = total.copy(), total2.copy()
        cuda.add_to(totals[0], x)
        cuda.add_all(totals, (x, x2))
        return totals

    totals = in_every_order(in_place, gy, x, gy[: n // 2], x[: n // 2])
    np.testing.assert_array_equal(totals[0], (gy + x) + x)
    np.testing.assert_array_equal(totals[1], gy[: n // 2] + x[: n // 2])


@few_examples
@given(N=st.integers(1, 3), H=SIZES, W=SIZES, C=st.integers(1, 5))
def test_upsample_nearest(N, H, W, C):
    x, gy = draw(0, (N, H, W, C), (N, 2 * H, 2 * W, C))
    check_kernel("upsample_nearest", x, tolerance=0)
    check_kernel("upsample_nearest_backward", gy)


@pytest.mark.parametrize("C", [1, 2, 5, 32, 33])
@pytest.mark.parametrize("cosines_first", [False, True])
def test_timestep_features(C, cosines_first):
    t = np.array([0, 1, 7, 500, 999, 3999])
    expected = reference.timestep_features(t, C, 0.0, cosines_first, "float64")
    compute = lambda t: cuda.timestep_features(t, C, 0.0, cosines_first, "float32")  # noqa: E731
    (features,) = in_every_order(compute, t)
    check(features, expected, 1e-6)


@few_examples
@given(N=st.integers(1, 4), P=st.integers(1, 70))
def test_q_sample(N, P):
    x0, noise, a, b = draw(0, (N, P), (N, P), N, N)
    check_kernel("q_sample", x0, noise, a, b)


@few_examples
@given(n=st.integers(1, 500), step=st.integers(1, 3), averaged=st.booleans())
def test_adam_and_ema(n, step, averaged):
    param, grad, m, v, average = draw(0, n, n, n, n, n)
    v = np.abs(v)
    numbers = (step, 1e-3, 0.9, 0.99, 1e-8, 0.02, 0.7, 0.95)

    def updated(kernels):
        def run(*arrays):
            copies = [a.copy() for a in arrays]
            kernels.adam(*copies[:4], copies[4] if averaged else None, *numbers)
            kernels.ema(copies[4], copies[0], 0.9)
            return copies

        return run

    arrays = (param, grad, m, v, average)
    expected = updated(reference)(*arrays)
    for result, wanted in zip(in_every_order(updated(cuda), *arrays), expected, strict=True):
        check(result, wanted, 1e-5)


@pytest.mark.parametrize("value", [4.0, 1e-3, 0.0, np.inf, np.nan])
def test_clip_scale(value):
    squared = np.array(value)
    (scale,) = in_every_order(cuda.clip_scale, squared, 1.5)
    np.testing.assert_allclose(scale, reference.clip_scale(squared, 1.5), rtol=1e-6)


@few_examples
@given(n=st.integers(2, 700), clip=st.booleans(), sigma=st.sampled_from([0.0, 0.3]))
def test_sampler_step(n, clip, sigma):
    x_t, output, noise = draw(0, n, n, n)
    coefficients = (1.2, -0.6, 0.1, 0.9, 0.2, sigma)
    check_kernel("sampler_step", x_t, output, noise if sigma else None, coefficients, clip)
    x_t[0] = np.nan
    results = in_every_order(cuda.sampler_step, x_t, output, noise, coefficients, clip)
    assert all(np.isnan(result[0]) and np.isfinite(result[1:]).all() for result in results)


@pytest.mark.parametrize("n", [1, 300, 70_000])
def test_squared_norm(n):
    (x,) = draw(0, n)
    check_kernel("squared_norm", x, tolerance=1e-12)


# --- random.cu -----------------------------------------------------------------------------------

SEED, PURPOSE, STEP = 0xDEADBEEF, 7, (5 << 32) + 3
STREAM = (SEED, PURPOSE, STEP)
FIRST = st.sampled_from([0, 1, 6, (1 << 34) + 3])  # element of the stream


@pytest.mark.parametrize("first", [0, 3, 4 * ((1 << 32) - 1)])
@pytest.mark.parametrize("n", [0, 1, 281])
def test_random_numbers_are_bit_equal(n, first):
    for name in ("random_bits", "random_uniform"):
        on_device = getattr(cuda, name)(cupy_on_cpu, n, *STREAM, first)
        expected = getattr(reference, name)(np, n, *STREAM, first)
        np.testing.assert_array_equal(on_device.get(), expected)
        assert on_device.dtype == expected.dtype


def test_random_normal():
    (z,) = in_every_order(lambda: cuda.random_normal(cupy_on_cpu, 19_999, *STREAM, 6))
    check(z, reference.random_normal(np, 19_999, *STREAM, 6), 3e-6)


@few_examples
@given(N=st.integers(1, 4), P=st.integers(1, 70), first=FIRST)
def test_q_sample_normal(N, P, first):
    x0, a, b = draw(0, (N, P), N, N)
    check_kernel("q_sample_normal", x0, a, b, *STREAM, first, tolerance=3e-6)


@few_examples
@given(n=st.integers(1, 700), p=st.sampled_from([0.0, 0.1, 0.5, 0.999]), first=FIRST)
def test_dropout(n, p, first):
    (x,) = draw(0, n)
    check_kernel("dropout", x, p, *STREAM, first)


@few_examples
@given(n=st.integers(1, 700), first=FIRST)
def test_sampler_step_normal(n, first):
    x_t, output = draw(0, n, n)
    coefficients = (1.2, -0.6, 0.1, 0.9, 0.2, 0.3)
    check_kernel(
        "sampler_step_normal", x_t, output, coefficients, True, *STREAM, first, tolerance=3e-6
    )


@few_examples
@given(N=st.integers(1, 5), P=st.sampled_from([1, 3, 70, 400]))
def test_replayed(N, P):
    (x,) = draw(0, (N, P))
    results = in_every_order(lambda x: four_calls(cuda, x), x)
    for result, wanted in zip(results, flat(four_calls(reference, x)), strict=True):
        check(result, wanted, 2e-5)  # four calls, each on the result of the one before


# --- norm.cu -------------------------------------------------------------------------------------


@few_examples
@given(
    N=st.integers(1, 3), P=st.sampled_from([1, 2, 7, 49, 100]), groups=st.sampled_from([1, 3, 8]),
    size=st.sampled_from([1, 3, 4, 12, 32, 260]), with_silu=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
@example(N=2, P=3, groups=2, size=1030, with_silu=True, seed=0)  # channels that are not kept
@example(N=2, P=400, groups=2, size=20, with_silu=False, seed=0)  # and pixels
@example(N=2, P=3, groups=2, size=2052, with_silu=True, seed=0)  # channels, in vectors
def test_group_norm(N, P, groups, size, with_silu, seed):
    C = groups * size
    x, gy, weight, bias = draw(seed, (N, P, C), (N, P, C), C, C)
    name = "group_norm_silu" if with_silu else "group_norm"
    _, mean, rstd = check_kernel(name, x, weight, bias, groups, 1e-2, tolerance=5e-6)
    more = (bias,) if with_silu else ()
    stats = mean.astype(np.float32), rstd.astype(np.float32)
    partial = () if with_silu else (draw(1, x.shape)[0],)
    check_kernel(f"{name}_backward", gy, x, weight, *more, *stats, groups, *partial, tolerance=2e-5)


def test_a_batch_of_more_images_than_a_grid_has_rows(monkeypatch):
    """A grid's y and z end at 65,535. All kernels with such a batch took two minutes here."""
    grids, N = [], 2**16 + 1
    for name in ("attention", "column", "fused", "ladder", "linear", "norm", "winograd"):
        module = sys.modules[f"minddpm.kernels.cuda.{name}"]
        monkeypatch.setattr(
            module, "launch", lambda file, kernel, grid, *a, **b: grids.append(grid)
        )
    x, w, b, four = (cupy_on_cpu.asarray(a) for a in draw(0, (N, 1, 2), (2, 2), 2, (N, 1, 1, 2)))
    y, mean, rstd = cuda.group_norm(x, b, b, 1, 1e-2)
    cuda.group_norm_backward(y, x, b, mean, rstd, 1)
    _, saved = cuda.attention(x, x, x, 1)
    cuda.attention_backward(x, x, x, x, saved, 1)
    cuda.linears_backward([x], x, [w])
    cuda.conv2d(four, w[None, None], b, 1, ((0, 0), (0, 0)))
    image = cupy_on_cpu.zeros((N, 1, 1, 4), "float32")
    for rung, K in ((column, 1), (fused, 4), (winograd, 4)):
        y, w = (cupy_on_cpu.zeros(shape, "float32") for shape in ((N, 1, 1, K), (3, 3, 4, K)))
        s = ladder.Sizes.of((image,), w.shape, 1, ((1, 1), (1, 1)))
        rung.forward(s, (image,), w, None, y)
        rung.backward(s, y, (image,), w)
    assert len(grids) == 27
    assert all(max(grid[1:], default=1) < 2**16 for grid in grids)


# --- attention.cu --------------------------------------------------------------------------------


def attention_and_gradients(kernels, heads, gy, *qkv):
    """Return y, and gq, gk and gv."""
    y, saved = kernels.attention(*qkv, heads)
    return y, kernels.attention_backward(gy, *qkv, saved, heads)


@few_examples
@given(
    N=st.integers(1, 2), L=st.sampled_from([1, 4, 31, 49, 70]), heads=st.sampled_from([1, 3]),
    D=st.sampled_from([1, 5, 8, 16, 30, 33, 40, 128, 256, 257]), scale=st.sampled_from([1.0, 20.0]),
)  # fmt: skip
@example(N=1, L=196, heads=1, D=8, scale=20.0)
def test_attention(N, L, heads, D, scale):
    q, k, v, gy = draw(0, *[(N, L, heads * D)] * 4)
    q *= np.float32(scale)  # scores beyond the range of e^x
    results = in_every_order(partial(attention_and_gradients, cuda, heads), gy, q, k, v)
    expected = attention_and_gradients(reference, heads, *(a.astype(float) for a in (gy, q, k, v)))
    for result, wanted, tolerance in zip(
        results, flat(expected), (1e-5, 1e-4, 1e-4, 1e-4), strict=True
    ):
        check(result, wanted, tolerance)


def test_attention_forgets_scores_that_overflow():
    """The first 8 keys of a chunk have -infinity, the others ordinary scores."""
    q, k, v = draw(0, (1, 20, 8), (1, 20, 8), (1, 20, 8))
    q[..., 0], k[:, :8, 0], k[:, 8:, 0] = 1e30, -1e30, 0.0
    y, _ = cuda.attention(*map(cupy_on_cpu.asarray, (q, k, v)), 1)
    with np.errstate(over="ignore"):
        wanted, _ = reference.attention(q, k, v, 1)
    np.testing.assert_allclose(y.get(), wanted, atol=1e-5)


def test_attention_reads_no_vector_of_an_array_that_is_not_aligned():
    shifted = [cupy_on_cpu.asarray(x)[1:].reshape(2, 5, 8) for x in draw(0, *[81] * 4)]
    results, expected = (
        flat(attention_and_gradients(cuda, 1, *arrays))
        for arrays in (shifted, [x.copy() for x in shifted])
    )
    for result, wanted in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result.get(), wanted.get())


# --- peak.cu, peak_tensor.cu ---------------------------------------------------------------------


def test_the_loops_that_measure_a_ceiling():
    """16 numbers x -> 3 x - 1 from 1; sums of r products of a matrix 2 and one of ones."""
    rounds = 3
    last = 27 - 13  # 1, 2, 5, 14
    (y,) = in_every_order(lambda: (peak.multiply_add(2, rounds, 3.0, -1.0),))
    np.testing.assert_array_equal(y, np.full(2 * 256, 16 * last, np.float32))
    (y,) = in_every_order(lambda: (peak.multiply_add_tensor(2, rounds, 2.0),))
    np.testing.assert_array_equal(y, np.full((8, 16, 8), rounds * 16 * 2, np.float32))
    assert peak.flops(2, rounds) == 2 * 256 * 16 * 2 * rounds
    assert peak.tensor_flops(2, rounds) == 2 * 4 * 8 * (2 * 16 * 16 * 8) * rounds
