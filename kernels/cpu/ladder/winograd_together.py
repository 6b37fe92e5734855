"""Winograd with more weights than image data: all pieces work on the same images, in three phases.

With 256 channels in and out the transformed weights are 9 MB. If each piece had its own
images, it would read all 9 MB, and add to its own gradient of 9 MB, for a few tiles. Here each
piece reads only the weights of its share of the points:

    forward    1. V of its share of the tiles   2. Z = V U at its points   3. result of its tiles
    backward   1. V and D of its tiles   2. dU += V^T D, dV = D U^T at its points
               3. gradient of its images

All pieces share V, Z and D; each phase begins when the previous one has ended. layer.py chooses
this method only if V, Z and D are small. But in conv4_winograd.py they are smaller and never leave
a core's cache, so with few weights that file is faster.

Measured with 8 images, 256 channels in and out, on two Zen 4 cores: at 8x8 1.3 times as fast as
conv4_winograd.py forward and 1.5 backward, at 16x16 1.05 and 1.1; 1.1 in the training step of the
35.7M-parameter model.
"""

from minddpm.kernels.cpu import threads
from minddpm.kernels.cpu.compiled import serial
from minddpm.kernels.cpu.ladder.conv6_fused import load_gradient, load_image, unload_gradient
from minddpm.kernels.cpu.ladder.layer import (
    BACKWARD,
    FORWARD,
    LAYER,
    SOURCES,
    Backward,
    Forward,
    Layer,
    Sources,
    backward_at,
    bordered_size,
    forward_at,
    tile_counts,
)
from minddpm.kernels.cpu.ladder.winograd_steps import (
    add_weight_gradient,
    images_to_points,
    points_to_gradient,
    points_to_result,
    products,
    result_to_points,
)
from minddpm.kernels.cpu.memory import address, clear, items, pairs, share, workspace
from minddpm.kernels.cpu.norm_steps import CHANNEL_ROWS, channels_at
from minddpm.kernels.cpu.task import integers, task
from minddpm.kernels.cpu.vector.instructions import BYTES, LANES

FORWARD_GROUP, BACKWARD_GROUP = LAYER + SOURCES + FORWARD, LAYER + SOURCES + BACKWARD


@serial
def tiles_of(s, images, piece, pieces):
    """Return the first tile of a piece's share of the images' tiles, and the end of the share."""
    TH, TW = tile_counts(s)
    return share(images * TH * TW, piece, pieces), share(images * TH * TW, piece + 1, pieces)


# --- forward -------------------------------------------------------------------------------------


@task
def _to_points(piece, pieces, worker, arguments):
    s, source, f = forward_at(arguments)
    first, images, v_at, _ = integers(arguments + 8 * FORWARD_GROUP, 4)
    (TH, TW), (PH, PW, Cp) = tile_counts(s), bordered_size(s)
    space = f.space + worker * f.space_row
    at, p_at = channels_at(space, Cp), space + CHANNEL_ROWS * Cp * 4
    clear(p_at, PH * PW * Cp)
    from_tile, to_tile = tiles_of(s, images, piece, pieces)
    start = from_tile
    while start < to_tile:
        n, r = divmod(start, TH * TW)
        count = min(TH * TW - r, to_tile - start)
        load_image(s, first + n, source, at, p_at, True)
        images_to_points(s, p_at, v_at + start * BYTES, r, count)
        start += count


@task
def _at_points(piece, pieces, worker, arguments):
    s, _, f = forward_at(arguments)
    _, images, v_at, z_at = integers(arguments + 8 * FORWARD_GROUP, 4)
    (TH, TW), (_, _, Cp) = tile_counts(s), bordered_size(s)
    columns = (s.M + 2) * (s.M + 2) * pairs(s.C_out) // 2
    first, last = share(columns, piece, pieces), share(columns, piece + 1, pieces)
    products(s, v_at, f.u, z_at, images * TH * TW, Cp // LANES, pairs(s.C_out), first, last)


@task
def _from_points(piece, pieces, worker, arguments):
    s, _, f = forward_at(arguments)
    first, images, _, z_at = integers(arguments + 8 * FORWARD_GROUP, 4)
    spare = f.space + worker * f.space_row
    clear(spare, LANES)
    start, end = tiles_of(s, images, piece, pieces)
    points_to_result(s, z_at + start * BYTES, first, start, end - start, f, spare)


def forward_floats(s: Layer) -> int:
    """Return the working memory of one thread, in floats."""
    PH, PW, Cp = bordered_size(s)
    return max((CHANNEL_ROWS + PH * PW) * Cp, LANES + s.M * s.M * pairs(s.C_out) * LANES)


def forward(s: Layer, source: Sources, f: Forward) -> None:
    """See conv4_winograd.forward."""
    for group in _groups(s):
        for phase in (_to_points, _at_points, _from_points):
            phase(threads.count(), *s, *source, *f, *group)


def _groups(s: Layer):
    """Yield for each group of images the first one, their number, the addresses of V, of Z or D."""
    Cp, Cp_out, point = bordered_size(s)[2], pairs(s.C_out) * LANES, (s.M + 2) ** 2 * s.tiles * 4
    v_at = address(workspace(point // 4 * (Cp + Cp_out), 3, rows=1))
    for first in range(0, s.N, s.images):
        yield first, min(s.images, s.N - first), v_at, v_at + point * Cp


# --- backward ------------------------------------------------------------------------------------


@task
def _gradient_to_points(piece, pieces, worker, arguments):
    s, source, b = backward_at(arguments)
    first, images, v_at, d_at = integers(arguments + 8 * BACKWARD_GROUP, 4)
    (TH, TW), (PH, PW, Cp) = tile_counts(s), bordered_size(s)
    space = b.space + worker * b.space_row
    at, p_at = channels_at(space, Cp), space + CHANNEL_ROWS * Cp * 4
    g_at = p_at + PH * PW * Cp * 4
    clear(p_at, PH * PW * Cp + TH * TW * s.M * s.M * pairs(s.C_out) * LANES)
    start, to_tile = tiles_of(s, images, piece, pieces)
    while start < to_tile:
        n, r = divmod(start, TH * TW)
        count = min(TH * TW - r, to_tile - start)
        load_image(s, first + n, source, at, p_at, False)
        from_gy = load_gradient(s, first + n, b, g_at, r == 0)  # one piece adds it up
        images_to_points(s, p_at, v_at + start * BYTES, r, count)
        result_to_points(s, from_gy, d_at + start * BYTES, r, count)
        start += count


@task
def _gradient_at_points(piece, pieces, worker, arguments):
    s, _, b = backward_at(arguments)
    first, images, v_at, d_at = integers(arguments + 8 * BACKWARD_GROUP, 4)
    (TH, TW), (_, _, Cp) = tile_counts(s), bordered_size(s)
    points, count, blocks = (s.M + 2) * (s.M + 2), images * TH * TW, Cp // LANES
    zeros = b.space + worker * b.space_row
    clear(zeros, 2 * LANES)
    for p in items(points, piece, pieces):
        add_weight_gradient(s, v_at, d_at, b.du, count, 0 if first else zeros, p, p + 1)
        if b.need_gx:  # dV = D U^T overwrites V
            columns = p * blocks // 2, (p + 1) * blocks // 2
            products(s, d_at, b.ut, v_at, count, pairs(s.C_out), blocks, columns[0], columns[1])


@task
def _gradient_from_points(piece, pieces, worker, arguments):
    s, source, b = backward_at(arguments)
    first, images, v_at, _ = integers(arguments + 8 * BACKWARD_GROUP, 4)
    (TH, TW), (PH, PW, Cp) = tile_counts(s), bordered_size(s)
    space, gnorm = b.space + worker * b.space_row, b.gnorm + piece * b.gnorm_row
    at, q_at = channels_at(space, Cp), space + CHANNEL_ROWS * Cp * 4
    if first == 0:
        clear(gnorm, 2 * Cp)
    if b.need_gx:
        for n in items(images, piece, pieces):
            clear(q_at, PH * PW * Cp)
            points_to_gradient(s, v_at + n * TH * TW * BYTES, q_at, 0, TH * TW)
            unload_gradient(s, first + n, source, at, q_at, b, gnorm)


def backward_floats(s: Layer) -> int:
    """Return the working memory of one thread, in floats."""
    (TH, TW), (PH, PW, Cp) = tile_counts(s), bordered_size(s)
    return (CHANNEL_ROWS + PH * PW) * Cp + TH * TW * s.M * s.M * pairs(s.C_out) * LANES


def backward(s: Layer, source: Sources, b: Backward) -> None:
    """See conv4_winograd.backward."""
    for group in _groups(s):
        arguments = *s, *source, *b, *group
        _gradient_to_points(threads.count(), *arguments)
        _gradient_at_points(threads.count(), *arguments)
        _gradient_from_points(threads.parts(s.N), *arguments)  # has sums over images
