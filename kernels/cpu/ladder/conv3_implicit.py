"""Rung 3: any convolution as an implicit matrix product; the patches are never written down.

Rung 2 copies the window under each output pixel into a matrix of patches, nine times the picture
for a 3x3 window, and multiplies. But in a channels-last picture one line of a window is KW C
neighbouring numbers already, and the window of the next output pixel begins stride C further on.
So the register tile (gemm.py) reads its rows straight from the picture, which is first copied into
a zero-bordered buffer that stays in the cache of its core:

    y[i, j, :] = sum over kh of  window line [KW C] at (i stride + kh, j stride)  times  w[kh]

The gradient of w is the transposed product over the same rows. The gradient of x falls into
stride^2 phases: the pixels a = q stride + r - top of x meet only the taps kh = r, r + stride, ...,
so that phase r of gx is a convolution of stride 1 of gy with every stride-th tap, turned round:

    gx[a] = sum over u of gy[q - u] w[r + u stride]^T

Gained over rung 2: 2 to 3 times, to 80-94% of the peak, which is where PyTorch's convolutions are.
No faster way to do these multiplications is left: the next rungs do fewer.
"""

import numpy as np

from minddpm.kernels.cpu.constant_weights import from_weights
from minddpm.kernels.cpu.ladder.shape import SHAPE, Shape
from minddpm.kernels.cpu.memory import (
    add_columns,
    address,
    clear,
    copy_floats,
    copy_picture,
    floats,
    integers_at,
    pairs,
    serial,
    share,
    workspace,
)
from minddpm.kernels.cpu.task import integers, task
from minddpm.kernels.cpu.vector.gemm import (
    DOTS,
    ROWS_T,
    WIDE,
    dots,
    transposed_product,
    transposed_product_wide,
)
from minddpm.kernels.cpu.vector.instructions import BYTES, ROWS, W
from minddpm.kernels.cpu.vector.tile import TILE_SPACE, pack, padded_bias, tile_rows

# Up to so many output channels the vectors run along the window instead of the output channels.
FEW = 3


@serial
def bordered_floats(s):
    """Floats of the bordered picture of x, with what a last tile of rows reads beyond its end."""
    PH, PW = (s.OH - 1) * s.stride + s.KH, (s.OW - 1) * s.stride + s.KW
    return PH * PW * s.C + (ROWS * s.stride + s.KW) * s.C + WIDE * W


@serial
def convolve(at, line, C, KH, KW, stride, packed, K, bias, y, OH, OW, y_line, y_pixel, space):
    """y[i, j, :] of the picture at `at`; line, y_line, y_pixel: bytes from one to the next."""
    step = stride * C * 4
    for i in range(OH):
        for j in range(0, OW, ROWS):
            tile_rows(
                at + i * stride * line + j * step, KH, line, KW * C, step, min(ROWS, OW - j),
                packed, K, bias, 0, 0, y + i * y_line + j * y_pixel, y_pixel, space,
            )  # fmt: skip


@serial
def convolve_few(at, line, C, KH, KW, stride, w, K, bias, y, OH, OW, y_line, y_pixel, space):
    """convolve for very few output channels and whole vectors in a line of the window.

    w [K, KH, KW C].
    """
    step, out, b = stride * C * 4, floats(space, DOTS), floats(bias, K)
    for i in range(OH):
        for j in range(0, OW, DOTS):
            for k in range(K):
                dots(
                    (
                        at + i * stride * line + j * step,
                        KH,
                        line,
                        KW * C // W,
                        step,
                        w + k * KH * KW * C * 4,
                        space,
                    )
                )
                for m in range(min(DOTS, OW - j)):
                    floats(y + i * y_line + (j + m) * y_pixel, K)[k] = out[m] + b[k]


@task
def _forward(t, threads, at):
    s = Shape(*integers(at, SHAPE))
    few, x, w, bias, y, space, row = integers(at + 8 * SHAPE, 7)
    space += t * row
    PH, PW = (s.OH - 1) * s.stride + s.KH, (s.OW - 1) * s.stride + s.KW
    picture = space + TILE_SPACE * 4
    clear(space, TILE_SPACE + bordered_floats(s))
    for n in range(share(s.N, t, threads), share(s.N, t + 1, threads)):
        copy_picture(
            x + n * s.H * s.W * s.C * 4, s.H, s.W, s.C, picture, s.top, s.left, PH, PW, s.C
        )
        line, to = PW * s.C * 4, y + n * s.OH * s.OW * s.K * 4
        if few:
            convolve_few(
                picture, line, s.C, s.KH, s.KW, s.stride, w, s.K, bias, to, s.OH, s.OW,
                s.OW * s.K * 4, s.K * 4, space,
            )  # fmt: skip
        else:
            convolve(
                picture, line, s.C, s.KH, s.KW, s.stride, w, s.K, bias, to, s.OH, s.OW,
                s.OW * s.K * 4, s.K * 4, space,
            )  # fmt: skip


def conv2d(x, w, b, stride, padding):
    """y of kernels.reference.conv2d for any window, stride and padding."""
    s = Shape.of(x.shape, w.shape, stride, padding)
    y = np.empty((s.N, s.OH, s.OW, s.K), np.float32)
    few = s.K <= FEW and s.KW * s.C % W == 0
    packed = from_weights(transposed if few else pack, w.reshape(-1, s.K))
    bias = from_weights(padded_bias, b, s.K)
    space = workspace(TILE_SPACE + bordered_floats(s))
    _forward(
        len(space), *s, few, address(x), address(packed), address(bias), address(y), address(space),
        space.strides[0],
    )  # fmt: skip
    return y


def transposed(w: np.ndarray) -> np.ndarray:
    """[D, K] as [K, D]."""
    return np.ascontiguousarray(w.T)


# --- backward ------------------------------------------------------------------------------------


@serial
def gradient_sizes(s):
    """(border, height, width) of the picture of gy between zeros, in which every phase lies."""
    border_h, border_w = (s.KH - 1) // s.stride, (s.KW - 1) // s.stride
    height = border_h + max(s.OH, (s.H - 1 + s.top) // s.stride + 1)
    width = border_w + max(s.OW, (s.W - 1 + s.left) // s.stride + 1)
    return border_h, border_w, height, width


@serial
def gradient_floats(s):
    """Floats of that picture, with what a last tile reads beyond its end."""
    _, _, height, width = gradient_sizes(s)
    return height * width * s.K + (ROWS + s.KW) * s.K + WIDE * W + 2 * W


@serial
def gives_few(s):
    """Whether the phases of the gradient of x are convolutions as convolve_few wants them."""
    return s.C <= FEW and s.K % W == 0


@serial
def gradient_of_x(s, g_at, phases, packed, bias, gx, space):
    """gx + bias of one picture, phase by phase; g_at: gy between zeros; phases: see pack_phases."""
    starts = integers_at(phases, s.stride * s.stride)
    border_h, border_w, _, width = gradient_sizes(s)
    number = 0
    for r in range(s.stride):
        for rw in range(s.stride):
            taps_h, taps_w = (
                (s.KH - r + s.stride - 1) // s.stride,
                (s.KW - rw + s.stride - 1) // s.stride,
            )
            a, b = (r - s.top) % s.stride, (rw - s.left) % s.stride
            rows, columns = (
                (s.H - a + s.stride - 1) // s.stride,
                (s.W - b + s.stride - 1) // s.stride,
            )
            q, qw = (a + s.top) // s.stride, (b + s.left) // s.stride
            from_h, from_w = q - taps_h + 1 + border_h, qw - taps_w + 1 + border_w
            to = gx + (a * s.W + b) * s.C * 4
            y_line, y_pixel = s.stride * s.W * s.C * 4, s.stride * s.C * 4
            g, w = g_at + (from_h * width + from_w) * s.K * 4, packed + starts[number] * 4
            if taps_h <= 0 or taps_w <= 0:  # a window narrower than the stride passes over these
                for i in range(rows):
                    for j in range(columns):
                        copy_floats(bias, to + i * y_line + j * y_pixel, s.C)
            elif gives_few(s):
                convolve_few(
                    g, width * s.K * 4, s.K, taps_h, taps_w, 1, w, s.C, bias, to, rows, columns,
                    y_line, y_pixel, space,
                )  # fmt: skip
            else:
                convolve(
                    g, width * s.K * 4, s.K, taps_h, taps_w, 1, w, s.C, bias, to, rows, columns,
                    y_line, y_pixel, space,
                )  # fmt: skip
            number += 1


@serial
def gradient_layout(s, few):
    """(lines, columns) of the scratch for gw, [KH, lines, columns]: whole tiles.

    Lines are numbers of a window line and columns output channels, or the other way round if few.
    """
    D = s.KW * s.C
    if few:
        return s.K, (D + WIDE * W - 1) // (WIDE * W) * WIDE * W
    return (D + ROWS_T - 1) // ROWS_T * ROWS_T, pairs(s.K) * W


@serial
def gradient_of_w(s, few, picture, line, gy, gy_line, gw):
    """gw [KH, lines, columns] += the transposed product of one bordered picture with its gy."""
    lines, columns = gradient_layout(s, few)
    step = s.stride * s.C * 4
    for kh in range(s.KH):
        window = picture + kh * line
        to = gw + kh * lines * columns * 4
        if few:
            for k in range(s.K):
                for d in range(0, columns, WIDE * W):
                    out = to + (k * columns + d) * 4
                    transposed_product_wide(
                        (
                            gy + 4 * k, gy_line, s.K * 4, window + 4 * d, s.stride * line, step,
                            BYTES, s.OH, s.OW, out, 0, out, 0,
                        )
                    )  # fmt: skip
        else:
            for d in range(0, lines, ROWS_T):
                for k in range(0, columns, 2 * W):
                    out = to + (d * columns + k) * 4
                    transposed_product(
                        (
                            window + 4 * d, s.stride * line, step, gy + 4 * k, gy_line, s.K * 4,
                            BYTES, s.OH, s.OW, out, columns * 4, out, columns * 4,
                        )
                    )  # fmt: skip


@task
def _backward(t, threads, at):
    s = Shape(*integers(at, SHAPE))
    few, gy, x, phases, packed, bias, gx, gw, gw_row, gb, gb_row, space, row = integers(
        at + 8 * SHAPE, 13
    )
    gw, gb, space = gw + t * gw_row, gb + t * gb_row, space + t * row
    PH, PW = (s.OH - 1) * s.stride + s.KH, (s.OW - 1) * s.stride + s.KW
    border_h, border_w, height, width = gradient_sizes(s)
    lines, columns = gradient_layout(s, few)
    picture = space + TILE_SPACE * 4
    g_at = picture + bordered_floats(s) * 4
    clear(space, TILE_SPACE + bordered_floats(s) + gradient_floats(s))
    clear(gw, s.KH * lines * columns)
    clear(gb, s.K)
    line, gy_line = PW * s.C * 4, width * s.K * 4
    inner = g_at + (border_h * width + border_w) * s.K * 4
    for n in range(share(s.N, t, threads), share(s.N, t + 1, threads)):
        from_gy = gy + n * s.OH * s.OW * s.K * 4
        copy_picture(
            x + n * s.H * s.W * s.C * 4, s.H, s.W, s.C, picture, s.top, s.left, PH, PW, s.C
        )
        copy_picture(from_gy, s.OH, s.OW, s.K, g_at, border_h, border_w, height, width, s.K)
        gradient_of_w(s, few, picture, line, inner, gy_line, gw)
        add_columns(from_gy, s.OH * s.OW, s.K, gb)
        if gx:
            to = gx + n * s.H * s.W * s.C * 4
            gradient_of_x(s, g_at, phases, packed, bias, to, space)


def pack_phases(w, stride, few):
    """The taps of every phase, turned and transposed: one buffer, and where each phase begins."""
    C, arrange = w.shape[2], transposed if few else pack
    parts, starts, size = [], np.zeros(stride * stride, np.int64), 0
    for r in range(stride):
        for rw in range(stride):
            taps = w[r::stride, rw::stride][::-1, ::-1].swapaxes(2, 3)
            starts[r * stride + rw] = size
            if taps.size:
                parts.append(arrange(taps.reshape(-1, C)).reshape(-1))
                size += parts[-1].size
    return np.concatenate(parts), starts


def conv2d_backward(gy, x, w, stride, padding, need_gx=True):
    """gx, gw, gb of kernels.reference.conv2d_backward for any window, stride and padding."""
    s = Shape.of(x.shape, w.shape, stride, padding)
    few = s.K <= FEW
    packed, phases = pack_phases(w, stride, gives_few(s))
    bias = padded_bias(None, s.C)
    gx = np.empty(x.shape, np.float32) if need_gx else None
    lines, columns = gradient_layout(s, few)
    space = workspace(TILE_SPACE + bordered_floats(s) + gradient_floats(s))
    gw, gb = workspace(s.KH * lines * columns, slot=1), workspace(s.K, slot=2)
    _backward(
        len(space), *s, few, address(gy), address(x), address(phases), address(packed),
        address(bias), address(gx), address(gw), gw.strides[0], address(gb), gb.strides[0],
        address(space), space.strides[0],
    )  # fmt: skip
    return gx, summed(gw, s, few).reshape(w.shape), gb[:, : s.K].sum(axis=0)


def summed(gw, s, few):
    """The gradients of w that the threads have found, together: [KH, KW C, K]."""
    lines, columns = gradient_layout(s, few)
    total = gw[:, : s.KH * lines * columns].sum(axis=0).reshape(s.KH, lines, columns)
    D = s.KW * s.C
    return np.ascontiguousarray(total[:, :, :D].swapaxes(1, 2) if few else total[:, :D, : s.K])
