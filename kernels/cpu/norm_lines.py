"""Group normalisation of images whose channels do not fill pairs of vectors.

FOLD neighbouring pixels side by side are a line, which does fill them: with 5 channels and vectors
of 16 floats, 32 pixels are a line of 160 floats. The passes of norm_steps.py take such a line for
one pixel with FOLD times as many channels. Each value of a channel is repeated FOLD times before a
pass, and the FOLD sums of a channel are added up after it. Incomplete last lines are filled up with
values that add nothing to the sums.
"""

import math

from minddpm.kernels.cpu.compiled import serial
from minddpm.kernels.cpu.memory import add_floats, copy_floats, floats
from minddpm.kernels.cpu.norm_steps import sums
from minddpm.kernels.cpu.vector.tile import PAIR


def fold(C: int) -> int:
    """Return how many pixels of C channels fill pairs of vectors; 1 if a single one does."""
    return PAIR // math.gcd(C, PAIR)


@serial
def spread(values, wide, C, F):
    """Repeat the values [C] F times: wide [F C]. F is a power of 2."""
    copy_floats(values, wide, C)
    n = C
    while n < F * C:
        copy_floats(wide, wide + 4 * n, n)
        n *= 2


@serial
def fold_sums(wide, values, C, F):
    """Add up the F sums of each channel, halves on halves: values [C]; overwrites wide [F C]."""
    n = F * C
    while n > C:
        n //= 2
        add_floats(wide, wide + 4 * n, wide, n)
    copy_floats(wide, values, C)


@serial
def line_moments(x, pixels, C, F, narrow, wide):
    """Compute norm_steps.moments from the lines at address x; narrow, wide: Channels, [C], [F C].

    The rest of the last line is overwritten with the pivot: its deviations are 0.
    """
    lines, line = -(-pixels // F), F * C
    rest = pixels * C % line
    last, means, pivot = (
        floats(x + 4 * (lines - 1) * line, line),
        floats(narrow.mean, C),
        floats(x, C),
    )
    sum_x, wide_mean = floats(narrow.first, C), floats(wide.mean, line)
    for c in range(C):
        means[c] = pivot[c]
    for _ in range(2):
        spread(narrow.mean, wide.mean, C, F)
        if rest:
            last[rest:] = wide_mean[rest:]
        for c in range(0, line, PAIR):
            at = 4 * c
            sums((x + at, lines, 4 * line, wide.mean + at, wide.first + at, wide.second + at))
        fold_sums(wide.first, narrow.first, C, F)
        for c in range(C):
            means[c] += sum_x[c] / pixels
    fold_sums(wide.second, narrow.second, C, F)
