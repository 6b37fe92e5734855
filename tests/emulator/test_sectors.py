"""The default kernels at the small UNet's shapes: few sectors of global memory beyond the fewest.

The bound for all of them is 1.3 times the fewest; benchmarks/sector_table.py has the numbers.
"""

import pytest
from cuda_checks import draw, needs_compiler
from emulated import excess, line_of

from minddpm.kernels import cuda
from minddpm.kernels.cuda import fused, ladder, norm
from minddpm.kernels.emulator import cupy_on_cpu
from minddpm.kernels.emulator.profile import global_bytes
from minddpm.kernels.shapes import SAME

pytestmark = needs_compiler

IMAGES = (2, 14, 14, 32)
REGISTER_TILES = [name for name in ladder.RUNGS if name.startswith("4")]


def arrays(*shapes):
    return tuple(map(cupy_on_cpu.asarray, draw(0, *shapes)))


def check_sectors(lines, loads=1.3, stores=1.3):
    assert excess(lines, "global", "load") <= loads
    assert excess(lines, "global", "store") <= stores


# --- convolutions --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REGISTER_TILES)
@pytest.mark.parametrize("shortcut", [False, True])
def test_the_default_convolution_wastes_little(costs, name, shortcut):
    """Forward and backward, alone and with all that is added to their results."""
    rung = ladder.RUNGS[name]
    x, w, b, shift, extra = arrays(IMAGES, (3, 3, 32, 32), 32, (2, 32), IMAGES)
    more = {"shift": shift, "extra": extra} if shortcut else {}
    sizes, partial = ladder.Sizes.of((x,), w.shape, 1, SAME), (extra,) * shortcut
    for lines in (
        costs(ladder.forward, sizes, (x,), w, b, x.copy(), rung=rung, **more),
        costs(ladder.backward, sizes, x, (x,), w, rung=rung, partial=partial),
    ):
        check_sectors(lines)
        shared = [line for line in lines if line.space == "shared"]
        assert max(line.worst for line in shared) <= 2  # ways of a bank conflict
        loads = [n for n in shared if n.kind == "load" and n.place.startswith("product.cuh")]
        assert sum(n.transactions for n in loads) == 2 * sum(n.requests for n in loads) > 0


@pytest.mark.parametrize("name", REGISTER_TILES)
def test_images_of_one_channel_become_many_channels_in_whole_sectors(costs, name):
    """The first convolution cannot fetch x in vectors; the gx of the last one cannot fetch gy."""
    rung = ladder.RUNGS[name]
    grey, x, w, b = arrays((2, 28, 28, 1), (2, 28, 28, 32), (3, 3, 1, 32), 32)
    sizes = ladder.Sizes.of((grey,), w.shape, 1, SAME)
    check_sectors(costs(ladder.forward, sizes, (grey,), w, b, x, extra=x, rung=rung), stores=1)
    check_sectors(costs(ladder.backward, sizes, x, (grey,), w, need_gx=False, rung=rung))
    last = sizes._replace(C=32, C_out=1)
    lines = costs(ladder.backward, last, grey, (x,), w, need_gw=False, partial=(x,), rung=rung)
    check_sectors(lines, stores=1.1)


def test_the_last_convolution_wastes_little(costs):
    x, w, b, gy = arrays((2, 28, 28, 32), (3, 3, 32, 1), 1, (2, 28, 28, 1))
    check_sectors(costs(cuda.conv2d, x, w, b, 1, SAME), 1, 1)
    # Four neighbouring pixels of gy, which has one channel, often begin within a sector.
    check_sectors(costs(cuda.conv2d_backward, gy, x, w, 1, SAME, need_gx=False), 1.4, 1)


def test_fused_winograd_wastes_little_but_for_x(costs):
    """The default of a T4, forward and gradient of x.

    A request for x has four channels of eight tiles, half a sector for each number of a tile; where
    tiles are cut by the edges, the fewest sectors are fewer, too.
    """
    x, w, y = arrays(IMAGES, (3, 3, 32, 64), (2, 14, 14, 64))
    sizes = ladder.Sizes.of((x,), w.shape, 1, SAME)
    lines = costs(fused.forward, sizes, (x,), w, None, y)
    lines += [
        line
        for line in costs(fused.backward, sizes, y, (x,), w)
        if line.place.startswith(fused.FILE)
    ]
    of_weights = [line for line in lines if line.kernel == "weights_to_16"]
    of_x = [
        line for line in lines if line.place == f"{fused.FILE}:{line_of(fused.FILE, '*at : 0')}"
    ]
    check_sectors(of_weights, 1, 1)
    assert max(line.worst for line in of_weights if line.space == "shared") == 1
    assert 1.3 < excess(of_x, "global", "load") <= 2
    check_sectors([line for line in lines if line not in of_x])


# bfloat16 has the code of half.
@pytest.mark.parametrize(
    "name", [name for name in ladder.RUNGS if name[0] == "6" and "bf" not in name]
)
@pytest.mark.parametrize("stored", [False, True])
def test_tensor_cores_waste_little(costs, name, stored):
    """Forward and backward: no bank conflict in the loop, and nearly whole sectors.

    g++ splits the store of two sums, which is one instruction on a GPU, in two, so that each has
    every second bank.
    """
    rung = ladder.RUNGS[name]
    if stored and rung.stored == "float32":
        return
    images = (1, 6, 5, 48)
    x, w, y, gy = arrays(images, (3, 3, 48, 48), images, images)
    sizes = ladder.Sizes.of((x,), w.shape, 1, SAME)
    xs = (x.astype(rung.stored) if stored else x,)
    lines = costs(ladder.forward, sizes, xs, w, None, y, rung=rung)
    lines += costs(ladder.backward, sizes, gy, xs, w, rung=rung)
    shared = [line for line in lines if line.space == "shared"]
    split = f"tensor.cuh:{line_of('tensor.cuh', 'patch[down * line + Right')}"
    assert {line.place for line in shared if line.worst > 1} <= {split}
    assert max(line.worst for line in shared) <= 2
    check_sectors(lines, 1.1)


# --- other kernels -------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", ["float32", "float16"])
@pytest.mark.parametrize(
    ("H", "parts", "times"), [(28, (32,), 1), (14, (64,), 1), (7, (64, 64), 1), (28, (64, 32), 2.5)]
)
def test_group_norm_wastes_little(costs, H, parts, times, stored):
    """At the small UNet's shapes. times: how often the forward reads x; once if a block keeps it.

    The backward reads gy as often, and x twice.
    """
    C, N = sum(parts), 2
    gy, weight, bias, *xs = arrays((N, H, H, C), C, C, *[(N, H, H, c) for c in parts])
    stats = []
    forward = costs(
        lambda: stats.extend(norm.normalise(xs, weight, bias, 8, 1e-5, True, stored)[1:])
    )
    backward = costs(norm.normalise_backward, gy, xs, weight, bias, *stats, 8, True)
    for lines, most in ((forward, times), (backward, times + 2)):
        check_sectors(lines)
        (read, _) = next(iter(global_bytes(lines).values()))
        assert read <= 1.3 * most * 4 * gy.size


@pytest.mark.parametrize(("L", "heads", "D"), [(49, 8, 8), (49, 2, 32)])
def test_attention_wastes_little(costs, L, heads, D):
    """A lane has 8 channels: it moves them together with its neighbour's."""
    q, k, v, gy = arrays(*[(2, L, heads * D)] * 4)
    check_sectors(costs(cuda.attention, q, k, v, heads), 1, 1.1)
    _, saved = cuda.attention(q, k, v, heads)
    check_sectors(costs(cuda.attention_backward, gy, q, k, v, saved, heads), 1.1, 1)


def test_noise_wastes_little(costs):
    """A thread has four numbers: it moves them together."""
    x, output, a, b = arrays((2, 784), (2, 784), 2, 2)
    stream, coefficients = (1, 2, 3), (1.2, -0.6, 0.1, 0.9, 0.2, 0.3)
    for function, arguments in (
        (cuda.q_sample_normal, (x, a, b)),
        (cuda.sampler_step_normal, (x, output, coefficients, True)),
        (cuda.dropout, (x, 0.3)),
    ):
        check_sectors(costs(function, *arguments, *stream), 1, 1)
