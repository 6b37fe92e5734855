"""The CUDA convolutions and linear layers against the reference, run by the emulator."""

from unittest import mock

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
    mapped,
    needs_compiler,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from minddpm.gpucheck.convolutions import TENSOR_RUNGS, rounded, sums_tolerance
from minddpm.kernels import cuda, precision, reference
from minddpm.kernels.cuda import column, fused, ladder, winograd
from minddpm.kernels.emulator import cupy_on_cpu

pytestmark = [needs_compiler, pytest.mark.usefixtures("emulated_kernels")]


def drawn_convolution(draw_number, seed=0):
    """Return x, w, b, stride and padding of a convolution of awkward sizes whose window fits."""
    one_of = lambda *values: draw_number(st.sampled_from(values))  # noqa: E731
    KH, KW = one_of(1, 3), one_of(1, 2, 3)
    pad = [one_of(0, 1, 2) for _ in range(4)]
    H, W = (max(one_of(1, 2, 5, 7, 14), K - a - b) for K, a, b in ((KH, *pad[:2]), (KW, *pad[2:])))
    N, C, K = one_of(1, 2), one_of(1, 3, 8, 17, 20), one_of(1, 5, 8, 66)
    x, w, b = draw(seed, (N, H, W, C), (KH, KW, C, K), K)
    return x, w, b, one_of(1, 2, 3), (tuple(pad[:2]), tuple(pad[2:]))


@pytest.mark.parametrize("rung", ladder.RUNGS)
@few_examples
@given(data=st.data())
def test_a_rung(rung, data):
    """Forward and gradients of each rung, with all options of its loads and stores.

    The numbers are such that tensor cores round nothing; test_tensor_cores.py has others.
    """
    x, w, b, stride, padding = drawn_convolution(data.draw)
    how = ladder.RUNGS[rung]
    x, w = rounded(x, how.stored), rounded(w, how.stored)
    C1 = data.draw(st.integers(1, x.shape[3]))
    up = data.draw(st.integers(0, 1)) if stride == 1 else 0  # each pair of them is compiled anew
    xs = tuple(np.ascontiguousarray(part) for part in np.split(x, [C1], axis=3) if part.shape[3])
    s = ladder.Sizes.of(xs, w.shape, stride, padding, up)
    shift, extra, gy = draw(1, (s.N, s.C_out), *[(s.N, s.OH, s.OW, s.C_out)] * 2)
    gy = rounded(gy, how.stored)
    with_all = data.draw(st.booleans())
    more = (shift, extra) if with_all else (None, None)
    image = reference.upsample_nearest(x.astype(float)) if up else x.astype(float)
    expected = reference.conv2d(image, w, b if with_all else None, stride, padding)
    if with_all:
        expected += shift[:, None, None] + extra

    def run(xs, w, b, shift, extra):
        y = cupy_on_cpu.empty(gy.shape, "float32")
        ladder.forward(s, xs, w, b, y, up=up, shift=shift, extra=extra, rung=how)
        return y

    tolerance = 5e-6
    if how in TENSOR_RUNGS:  # they cut off bits of every sum of a few products
        tolerance = sums_tolerance(how, max(*w.shape[:2]) ** 2 * max(w.shape[2:]) + gy[..., 0].size)
    (y,) = in_every_order(run, xs, w, b if with_all else None, *more)
    check(y, expected, tolerance)

    def gradients(gy, xs, w):
        separate = ladder.separate_gradients(s, gy, xs, w, how, up)
        if how.file not in ladder.FUSED_BACKWARD:
            return separate
        return separate, ladder.backward(s, gy, xs, w, up=up, rung=how)

    gx, gw, gb = reference.conv2d_backward(gy.astype(float), image, w, stride, padding)
    gx = reference.upsample_nearest_backward(gx) if up else gx
    gxs = np.split(gx, [C1], axis=3)[: len(xs)]
    results = in_every_order(gradients, gy, xs, w)
    exact = (*gxs, gw, *gxs, gw, gy.sum(axis=(1, 2)), gb)
    for result, wanted in zip(results, exact[: len(results)], strict=True):
        check(result, wanted, tolerance)


@pytest.mark.parametrize("slices", [2, 7])
@pytest.mark.parametrize("rung", [name for name in ladder.RUNGS if name.startswith("4")])
@pytest.mark.parametrize(("C", "K"), [(1, 5), (8, 66)])  # of seven slices some are empty
def test_the_depth_in_slices(rung, C, K, slices):
    x, w, b, shift, extra = draw(0, (3, 9, 9, C), (3, 3, C, K), K, (3, K), (3, 9, 9, K))
    s = ladder.Sizes.of((x,), w.shape, 1, ((1, 1), (1, 1)))
    exact = reference.conv2d(x.astype(float), w, b, 1, ((1, 1), (1, 1)))
    exact += shift[:, None, None] + extra

    def run(x, *more):
        y = cupy_on_cpu.empty(extra.shape, "float32")
        w, b, shift, extra_y = more
        ladder.forward(s, (x,), w, b, y, shift=shift, extra=extra_y, rung=ladder.RUNGS[rung])
        return y

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ladder, "depth_slices", lambda *a: slices)
        (y,) = in_every_order(run, x, w, b, shift, extra)
    check(y, exact, 5e-6)


@pytest.mark.parametrize("count", [40, 108, 128, 132])  # of a T4, A100, RTX 4090, H100
@pytest.mark.parametrize(("H", "C", "K"), [(28, 32, 32), (14, 64, 64), (7, 64, 64), (7, 128, 64)])
def test_every_multiprocessor_has_a_block(monkeypatch, count, H, C, K):
    """At the small UNet's shapes and batch 128; slices only where there are few tiles."""
    monkeypatch.setattr(ladder, "multiprocessors", lambda library: count)
    rung = ladder.register_tile(128 * H * H, K)
    tiles = -(-128 * H * H // rung.rows) * -(-K // rung.columns)
    slices = ladder.depth_slices(tiles, rung.block[0] // 32, 9 * C, count)
    assert tiles * slices >= 1.9 * count
    assert (slices > 1) == (tiles < 3 * count)


def test_narrow_results_get_narrow_tiles():
    columns = {n: ladder.register_tile(1 << 20, *n).columns for n in [(32,), (64,), (96,), (128,)]}
    assert columns == {(32,): 32, (64,): 64, (96,): 32, (128,): 64}
    assert ladder.register_tile(1 << 20, 64, 32).columns == 32  # both gradients of 64 -> 32
    assert ladder.register_tile(1 << 20, 128, 64).columns == 64


@few_examples
@given(data=st.data())
def test_conv2d(data):
    x, w, b, stride, padding = drawn_convolution(data.draw)
    expected = check_kernel("conv2d", x, w, b, stride, padding, tolerance=5e-6)
    (gy,) = draw(1, expected.shape)
    need_gx = data.draw(st.booleans())
    partial = x if need_gx and data.draw(st.booleans()) else None
    check_kernel("conv2d_backward", gy, x, w, stride, padding, need_gx, partial, tolerance=5e-6)


@few_examples
@given(
    N=st.integers(1, 2), H=SIZES, W=SIZES, C_in=st.sampled_from([1, 8, 33]),
    C_out=st.sampled_from([1, 8, 20]), window=st.sampled_from([(4, 4, 2, 1), (3, 2, 1, 0)]),
    need_gx=st.booleans(), with_partial=st.booleans(),
)  # fmt: skip
def test_conv_transpose2d(N, H, W, C_in, C_out, window, need_gx, with_partial):
    KH, KW, stride, pad = window
    how = stride, ((pad, pad), (pad, pad))
    x, w, b = draw(0, (N, H, W, C_in), (KH, KW, C_out, C_in), C_out)
    y = check_kernel("conv_transpose2d", x, w, b, *how, tolerance=5e-6)
    (gy,) = draw(1, y.shape)
    partial = x if need_gx and with_partial else None
    check_kernel("conv_transpose2d_backward", gy, x, w, *how, need_gx, partial, tolerance=5e-6)


@few_examples
@given(
    rows=st.sampled_from([1, 7, 130]), K=st.sampled_from([1, 8, 70]),
    parts=st.sampled_from([(1,), (8,), (4, 8), (3, 2), (1, 2, 3)]),
)  # fmt: skip
def test_linear(rows, parts, K):
    w, b, gy, *xs = draw(0, (sum(parts), K), K, (rows, 1, K), *[(rows, 1, c) for c in parts])
    check_kernel("linear", tuple(xs), w, b, tolerance=5e-6)
    check_kernel("linear_backward", gy, tuple(xs), w, tolerance=5e-6)
    check_kernel("linear", tuple(xs), w, b, gy, tolerance=5e-6)
    check_kernel("linear_backward", gy, tuple(xs), w, (None, *xs[1:]), tolerance=5e-6)


@few_examples
@given(
    shape=st.sampled_from([(1,), (7,), (3, 49), (130,)]), C=st.sampled_from([1, 8, 66]),
    Ks=st.sampled_from([(1,), (8, 8, 8), (3, 70), (32, 64) * 9]), with_partial=st.booleans(),
)  # fmt: skip
def test_linears(shape, C, Ks, with_partial):
    x, partial, *ws = draw(0, (*shape, C), (*shape, C), *[(C, K) for K in Ks])
    bs, gys = draw(1, *Ks), draw(2, *[(*shape, K) for K in Ks])
    check_kernel("linears", x, tuple(ws), tuple(bs), tolerance=5e-6)
    check_kernel(
        "linears_backward",
        tuple(gys),
        x,
        tuple(ws),
        partial if with_partial else None,
        tolerance=5e-6,
    )


@few_examples
@given(N=st.integers(1, 2), H=SIZES, W=SIZES, C=st.sampled_from([1, 4]), K=st.sampled_from([1, 8]))
def test_upsample_conv2d(N, H, W, C, K):
    x, w, b, gy = draw(0, (N, H, W, C), (3, 3, C, K), K, (N, 2 * H, 2 * W, K))
    check_kernel("upsample_conv2d", x, w, b, tolerance=5e-6)
    check_kernel("upsample_conv2d_backward", gy, x, w, tolerance=5e-6)


@few_examples
@given(
    N=st.integers(1, 2), H=SIZES, W=SIZES,
    parts=st.sampled_from([(2,), (8,), (4, 12), (3, 5), (1, 2, 3)]), K=st.sampled_from([1, 8]),
    layer=st.sampled_from([(), (5,), (4, 8), (1, 2, 3)]), with_shift=st.booleans(),
    with_more=st.booleans(),
)  # fmt: skip
def test_norm_silu_conv2d(N, H, W, parts, K, layer, with_shift, with_more):
    """layer: the parts of the input of a linear layer that computes the residual path."""
    check_norm_silu_conv2d(N, H, W, parts, K, layer, with_shift, with_more, 5e-6, 2e-5)


def test_norm_silu_conv2d_on_tensor_cores():
    """Products of numbers that are rounded to 11 bits."""
    with mock.patch.object(precision, "_precision", "tf32"):
        check_norm_silu_conv2d(2, 3, 5, (16,), 32, (16, 4), True, True, 1e-3, 2e-3)


def check_norm_silu_conv2d(
    N, H, W, parts, K, layer, with_shift, with_more, forward_tolerance, backward_tolerance
):
    C = sum(parts)
    weight, bias, w, b, shift, extra, gy, *xs = draw(
        0, C, C, (3, 3, C, K), K, (N, K), *[(N, H, W, K)] * 2, *[(N, H, W, c) for c in parts]
    )
    groups, xs, partial, layer_partial = 2 if C % 2 == 0 else 1, tuple(xs), (), ()
    if with_more:
        partial = (None, *draw(1, *[(N, H, W, c) for c in parts[1:]]))
        layer_partial = tuple(draw(2, *[(N, H, W, c) for c in layer]))
    shift, extra = shift if with_shift else None, extra if with_more else None
    if layer:
        layer_w, layer_b, *layer_xs = draw(3, (sum(layer), K), K, *[(N, H, W, c) for c in layer])
        extra = tuple(layer_xs), layer_w, layer_b

    def both(kernels, xs, weight, bias, w, b, shift, extra, gy, partial, layer_partial):
        y, saved = kernels.norm_silu_conv2d(xs, weight, bias, groups, 1e-2, w, b, shift, extra)
        more = partial, (*extra[:2], layer_partial) if layer else ()
        return y, kernels.norm_silu_conv2d_backward(gy, xs, weight, bias, saved, groups, w, *more)

    arguments = (xs, weight, bias, w, b, shift, extra, gy, partial, layer_partial)
    with mock.patch.object(ladder, "MIN_PIXELS", 16):  # so that gradients are sums of slices
        results = in_every_order(lambda *a: both(cuda, *a), *arguments)
    double = mapped(lambda a: a.astype(float), arguments, np.ndarray)
    y, *exact = flat(both(reference, *double))
    check(results[0], y, forward_tolerance)
    for result, expected in zip(results[1:], exact, strict=True):
        check(result, expected, backward_tolerance)


@settings(max_examples=6, deadline=None)
@given(
    N=st.integers(1, 2), H=SIZES, W=SIZES, C=st.sampled_from([1, 8, 33]),
    K=st.sampled_from([1, 8, 66]), pad=st.tuples(*[st.integers(0, 2)] * 4), full=st.booleans(),
)  # fmt: skip
def test_winograd(N, H, W, C, K, pad, full):
    check_winograd(winograd, N, H, W, C, K, pad, full)


@settings(max_examples=8, deadline=None)
@given(
    N=st.integers(1, 3), H=SIZES, W=SIZES, C=st.sampled_from([4, 8, 36]),
    K=st.sampled_from([4, 8, 68]), pad=st.tuples(*[st.integers(0, 2)] * 4), full=st.booleans(),
)  # fmt: skip
def test_fused_winograd(N, H, W, C, K, pad, full):
    check_winograd(fused, N, H, W, C, K, pad, full)


@settings(max_examples=8, deadline=None)
@given(
    N=st.integers(1, 3), H=SIZES, W=SIZES, C=st.sampled_from([4, 32, 36]),
    pad=st.tuples(*[st.integers(0, 2)] * 4), full=st.booleans(),
)  # fmt: skip
def test_a_single_column(N, H, W, C, pad, full):
    check_winograd(column, N, H, W, C, 1, pad, full)


def check_winograd(rung, N, H, W, C, K, pad, full):
    padding = (pad[:2], pad[2:])
    if H + sum(padding[0]) < 3 or W + sum(padding[1]) < 3:
        return
    x, w, b, shift = draw(0, (N, H, W, C), (3, 3, C, K), K, (N, K))
    s = ladder.Sizes.of((x,), w.shape, 1, padding)
    extra, gy = draw(1, *[(N, s.OH, s.OW, K)] * 2)
    expected = reference.conv2d(x.astype(float), w, b if full else None, 1, padding)
    if full:
        expected += shift[:, None, None] + extra
    gradients = reference.conv2d_backward(gy, x.astype(float), w, 1, padding)

    def both(x, w, b, shift, extra, gy):
        y = cupy_on_cpu.empty(gy.shape, "float32")
        rung.forward(s, (x,), w, b, y, shift=shift, extra=extra)
        return y, rung.backward(s, gy, (x,), w, partial=(x if full else None,))

    more = (b, shift, extra) if full else (None, None, None)
    results = in_every_order(both, x, w, *more, gy)
    gx = gradients[0] + (x if full else 0)
    wanted = (expected, gx, gradients[1], gy.sum(axis=(1, 2)), gradients[2])
    for result, exact in zip(results, wanted, strict=True):
        check(result, exact, 3e-5 if rung is winograd else 5e-6)  # F(4x4), as on the CPU


def test_which_convolutions_winograd_takes():
    x, w = np.zeros((1, 8, 8, 256), np.float32), (3, 3, 256, 256)
    same_size = ((1, 1), (1, 1))

    def takes(xs=(x,), w=w, stride=1, up=0):
        s = ladder.Sizes.of(xs, w, stride, same_size, up)
        return winograd.pays(s, xs, up)

    assert takes()
    assert not takes((x.astype(np.float16),))
    assert not takes(stride=2)
    assert not takes(up=1)
    assert not takes(w=(3, 3, 256, 64))
    assert not takes(w=(1, 1, 256, 256))
    assert not takes((x[..., :128], x[..., 128:]))


def test_one_channel_is_not_computed_as_32():
    x = cupy_on_cpu.zeros((2, 4, 4, 32), "float32")
    sizes = [ladder.Sizes.of((x,), (3, 3, 32, K), 1, ((1, 1), (1, 1))) for K in (1, 2)]
    assert [column.pays(s, (x,)) for s in sizes] == [True, False]
    assert not column.pays(sizes[0], (x,), up=1)
    assert not column.pays(sizes[0], (cupy_on_cpu.zeros(1025, "float32")[1:].reshape(x.shape),))


@pytest.mark.parametrize(
    ("K", "files"),
    [(32, {"conv5_fused.cu", "conv4_gradients.cu"}), (1, {"conv_column.cu", "conv4_gradients.cu"})],
)
def test_the_rungs_of_a_t4(monkeypatch, K, files):
    """Through the functions of the reference; rung 4 computes the other gradients."""
    monkeypatch.setattr(cupy_on_cpu.cuda.Device, "compute_capability", "75")
    used, original = set(), {}
    for module in (column, fused, ladder):
        original[module] = module.launch
        noted = lambda file, *a, m=module, **b: (used.add(file), original[m](file, *a, **b))  # noqa: E731
        monkeypatch.setattr(module, "launch", noted)
    x, w, b, partial = draw(0, (2, 5, 7, 32), (3, 3, 32, K), K, (2, 5, 7, 32))
    same_size = 1, ((1, 1), (1, 1))
    y = check_kernel("conv2d", x, w, b, *same_size, tolerance=5e-6)
    (gy,) = draw(1, y.shape)
    check_kernel("conv2d_backward", gy, x, w, *same_size, True, partial, tolerance=5e-6)
    check_kernel("conv2d_backward", gy, x, w, *same_size, False, None, tolerance=5e-6)
    assert used == files


def test_which_convolutions_the_fused_rung_takes(monkeypatch):
    """On a T4, those of the small UNet that fill it; elsewhere none."""
    monkeypatch.setattr(cupy_on_cpu.cuda.Device, "compute_capability", "75")
    monkeypatch.setattr(ladder, "multiprocessors", lambda library: 40)
    same_size = ((1, 1), (1, 1))

    def takes(N, H, C, K):
        x = np.empty((N, H, H, C), np.float32)
        return fused.pays(ladder.Sizes.of((x,), (3, 3, C, K), 1, same_size), (x,))

    assert takes(128, 28, 32, 32)
    assert takes(128, 7, 64, 64)
    assert not takes(128, 28, 1, 32)
    assert not takes(128, 28, 32, 1)
    assert not takes(128, 28, 34, 34)
    assert not takes(1, 28, 32, 32)
    monkeypatch.setattr(cupy_on_cpu.cuda.Device, "compute_capability", "80")
    assert not takes(128, 28, 32, 32)
