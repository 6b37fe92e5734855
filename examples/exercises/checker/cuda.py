"""The checks of exercises 17 to 24: results and races at awkward sizes, then what each line costs.

The costs are counted at sizes that are multiples of 32, so that the ideal can be reached.
"""

import numpy as np

from checker.compare import NotPassed
from checker.launch import Kernel, requests
from minddpm.kernels import reference


def draw(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    """Return float32 arrays of standard normal numbers, the same in every run."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def blocks(n: int, size: int) -> int:
    """Return how many blocks of this size hold n."""
    return -(-n // size)


def map(kernel: Kernel) -> None:
    for n in (150, 1, 64):
        (x,) = draw((n,))
        a, b = 1.5, -0.25
        mistakes = {"a and b are swapped.": b * x + a, "b is missing.": a * x}
        kernel.check((blocks(n, 64),), (64,), (x,), a * x + b, (a, b, n), sizes=f"n = {n}",
                     mistakes=mistakes)  # fmt: skip


def copy(kernel: Kernel) -> None:
    for n, grid, block in ((1000, 2, 64), (100, 2, 64), (1, 2, 64), (500, 3, 32)):
        (x,) = draw((n,))
        kernel.check((grid,), (block,), (x,), x, (n,), sizes=f"n = {n}, grid {grid}, block {block}")
    kernel.check_sectors(kernel.profile((2,), (64,), draw((1024,)), (1024,), (1024,)))


def block_sum(kernel: Kernel) -> None:
    for rows, n in ((3, 300), (2, 5), (1, 128)):
        (x,) = draw((rows, n))
        kernel.check((rows,), (128,), (x,), x.sum(axis=1), (n,), sizes=f"n = {n}", mistakes={
            "This is the sum of the first 128 numbers: a thread sums every 128th of the row.": (
                x[:, :128].sum(axis=1)
            ),
            "This is the sum of one thread alone: its partner's sums are missing.": (
                x[:, ::128].sum(axis=1)
            ),
            "Every block sums row 0: row blockIdx.x begins at x + blockIdx.x * n.": (
                np.full(rows, x[0].sum())
            ),
        })  # fmt: skip
    lines = kernel.profile((2,), (128,), draw((2, 512)), (2,), (512,))
    kernel.check_sectors([line for line in lines if line.kind == "load"])
    if (reads := requests(lines, "global") // 2) > 16:
        raise NotPassed(
            f"The result is right, but a block reads its row of 512 numbers in {reads} requests, "
            "where 16 suffice: all threads should read."
        )
    if (reads := requests(lines, "shared") // 2) > 60:
        raise NotPassed(
            f"The result is right, but a block makes {reads} requests to read shared memory, and "
            "may make 60: halve the number of sums in each round, instead of adding one by one."
        )


def transpose(kernel: Kernel) -> None:
    def grid(H: int, W: int) -> tuple[int, int]:
        return blocks(W, 32), blocks(H, 32)

    for H, W in ((32, 64), (37, 5), (1, 33)):
        (x,) = draw((H, W))
        kernel.check(grid(H, W), (32, 32), (x,), x.T, (H, W), sizes=f"H = {H}, W = {W}", mistakes={
            "This is x itself, number by number, in another shape.": x.reshape(W, H),
            "The squares are in their places, but not turned: what was written at [ty][tx] is "
            "read at [tx][ty].": _unturned_squares(x),
            "y is written at the indices of x: y has W rows of H numbers, and its square is "
            "(blockIdx.x, blockIdx.y).": _squares_in_place(x),
        })  # fmt: skip
    lines = kernel.profile(grid(64, 32), (32, 32), draw((64, 32)), (32, 64), (64, 32))
    kernel.check_sectors(lines)
    kernel.check_banks(lines)


def _unturned_squares(x: np.ndarray) -> np.ndarray:
    """Return y if each 32 x 32 square moves to its place without being transposed."""
    H, W = x.shape
    if H % 32 or W % 32:
        return x
    return x.reshape(H // 32, 32, W // 32, 32).transpose(2, 1, 0, 3).reshape(W, H)


def _squares_in_place(x: np.ndarray) -> np.ndarray:
    """Return y if each 32 x 32 square is transposed, but stays where it was in x."""
    H, W = x.shape
    if H % 32 or W % 32:
        return x
    return x.reshape(H // 32, 32, W // 32, 32).transpose(0, 3, 2, 1).reshape(W, H)


def softmax(kernel: Kernel) -> None:
    cases = (2, 70, 1, 0), (3, 5, 1, 0), (1, 32, 1, 0), (2, 40, 200, 0), (2, 40, 1, -1000)
    for R, n, scale, mean in cases:
        x = scale * draw((R, n))[0] + np.float32(mean)
        e = np.exp(x.astype(float) - x.max(axis=1, keepdims=True))
        of_lane = np.zeros((R, 32))  # the sum of a lane's numbers
        for i in range(n):
            of_lane[:, i % 32] += e[:, i]
        down = of_lane.copy()
        for bits in (16, 8, 4, 2, 1):  # __shfl_down_sync gives the last lanes their own value
            down += np.concatenate([down[:, bits:], down[:, 32 - bits :]], axis=1)
        lane = np.arange(n) % 32

        def summed(*rounds: int, of_lane=of_lane) -> np.ndarray:
            for bits in rounds:
                of_lane = of_lane + of_lane[:, np.arange(32) ^ bits]
            return of_lane

        with np.errstate(all="ignore"):
            naive = np.exp(x)
            from_0 = np.exp(x - np.maximum(x.max(axis=1, keepdims=True), 0))
            mistakes = {
                "This is e^(x - max), not divided by the sum.": e,
                "The maximum is below 0: begin with a number of the row, not with 0.": (
                    from_0 / from_0.sum(axis=1, keepdims=True)
                ),
                "exp() overflows: subtract the maximum of the row first.": (
                    naive / naive.sum(axis=1, keepdims=True)
                ),
                "Each lane divides by its own sum: exchange the sums by shuffles.": (
                    e / of_lane[:, lane]
                ),
                "A round of the sum is missing: bits = 16, 8, 4, 2, 1.": (
                    e / summed(16, 8, 4, 2)[:, lane],
                    e / summed(8, 4, 2, 1)[:, lane],
                ),
                "Only lane 0 has the sum of all lanes: __shfl_xor_sync gives it to every lane.": (
                    e / down[:, lane]
                ),
            }
        sizes = f"n = {n}, x from {x.min():.0f} to {x.max():.0f}"
        kernel.check((R,), (32,), (x,), e / e.sum(axis=1, keepdims=True), (n,), sizes=sizes,
                     mistakes=mistakes)  # fmt: skip
    lines = kernel.profile((2,), (32,), draw((2, 96)), (2, 96), (96,))
    if any(line.space == "shared" for line in lines):
        raise NotPassed("The result is right, but it uses shared memory: use shuffles alone.")
    kernel.check_sectors(lines)
    if (reads := requests(lines, "global") // 2) > 16:
        raise NotPassed(
            f"The result is right, but a warp reads a row of 96 numbers in {reads} requests, and "
            "may make 16: each lane reads every 32nd number, and shuffles do the rest."
        )


def product(kernel: Kernel) -> None:
    def grid(M: int, K: int) -> tuple[int, int]:
        return blocks(K, 16), blocks(M, 16)

    for M, C, K in ((16, 32, 16), (20, 37, 18), (1, 3, 5)):
        a, b = draw((M, C), (C, K))
        kernel.check(
            grid(M, K), (16, 16), (a, b), a @ b, (M, C, K), sizes=f"M = {M}, C = {C}, K = {K}",
            mistakes={
                "Only the first pair of tiles is summed: loop over all C.": a[:, :16] @ b[:16],
                "Only whole tiles are summed: the last one may be part of a tile.": (
                    a[:, : C // 16 * 16] @ b[: C // 16 * 16]
                ),
            },
        )  # fmt: skip
    lines = kernel.profile(grid(32, 32), (16, 16), draw((32, 32), (32, 32)), (32, 32), (32, 32, 32))
    reads, tiles = requests(lines, "global"), 4 * 2 * 2  # blocks, steps, a and b
    if reads > 8 * tiles:
        raise NotPassed(
            f"The result is right, but for M = C = K = 32 the warps make {reads} requests to read "
            f"a and b, and {8 * tiles} suffice: fetch each number of a tile once, together."
        )
    kernel.check_banks(lines)


def group_norm(kernel: Kernel) -> None:
    eps = 0.1
    shapes = (2, 9, 6, 3, 0), (1, 100, 8, 2, 0), (2, 1, 4, 4, 0), (1, 60, 4, 2, 1000)
    for N, P, C, G, offset in shapes:
        x, weight, bias = draw((N, P, C), (C,), (C,))
        x += np.float32(offset)
        x64, sizes = x.astype(float), f"N = {N}, P = {P}, C = {C}, G = {G}, mean of x {offset}"
        expected, mean, rstd = reference.group_norm(x64, weight, bias, G, eps)

        def with_rstd(rstd: np.ndarray, x64=x64, mean=mean, weight=weight, bias=bias):
            return reference.norm.normalised(x64, mean, rstd) * weight + bias

        variance = np.maximum(1 / rstd**2 - eps, 1e-30)
        mistakes = {
            "weight and bias are missing.": reference.norm.normalised(x64, mean, rstd),
            "eps is missing, or outside of the root.": (
                with_rstd(1 / np.sqrt(variance)),
                with_rstd(1 / (np.sqrt(variance) + eps)),
            ),
            "This is divided by the variance, not by its square root.": with_rstd(rstd**2),
            "mean and variance are those of each channel: they are a group's.": (
                reference.group_norm(x64, weight, bias, C, eps)[0]
            ),
            "weight and bias of the first group are used for all: channel i % S of group g is "
            "channel g S + i % S.": (
                with_rstd(
                    rstd, weight=np.tile(weight[: C // G], G), bias=np.tile(bias[: C // G], G)
                )
            ),
            "x is indexed as [N, C, P], but its channels come last.": _as_if_contiguous(
                x64, weight, bias, G, eps
            ),
            "The mean is not subtracted before squaring: the variance is that of x - mean.": (
                with_rstd(1 / np.sqrt(variance + mean**2 + eps))
            ),
        }
        tolerance = 1e-3 if offset else 1e-5  # float32 near 1000 has steps of 6e-5, and sums round
        try:
            kernel.check((N * G,), (128,), (x, weight, bias), expected, (P, C, G, eps), sizes=sizes,
                         mistakes=mistakes, tolerance=tolerance)  # fmt: skip
        except NotPassed as problem:
            if not offset or "should be" not in str(problem):
                raise
            raise NotPassed(
                f"{problem}\nOnly with a large mean it is wrong: sum (x - mean)^2, because "
                "E[x^2] - mean^2 loses its digits in float32."
            ) from None


def _as_if_contiguous(x, weight, bias, G: int, eps: float) -> tuple[np.ndarray, np.ndarray]:
    """Return y if a group is contiguous, by channel i / P and by channel i % S of number i."""
    N, P = x.shape[:2]
    numbers = x.reshape(N, G, -1)
    rstd = 1 / np.sqrt(numbers.var(axis=2, keepdims=True) + eps)
    n = (numbers - numbers.mean(axis=2, keepdims=True)) * rstd
    w, b = weight.reshape(G, -1), bias.reshape(G, -1)
    by_channel = n * np.repeat(w, P, axis=1) + np.repeat(b, P, axis=1)
    by_pixel = n * np.tile(w, P) + np.tile(b, P)
    return by_channel.reshape(x.shape), by_pixel.reshape(x.shape)


def conv2d(kernel: Kernel) -> None:
    def threads(N: int, H: int, W: int, K: int) -> int:
        return N * H * blocks(W, 4) * (K // 4)

    padding = ((1, 1), (1, 1))
    for N, H, W, C, K in ((2, 3, 5, 3, 4), (1, 1, 1, 1, 8), (1, 4, 8, 2, 12)):
        x, w = draw((N, H, W, C), (3, 3, C, K))
        expected = reference.conv2d(x, w, None, 1, padding)
        kernel.check(
            (blocks(threads(N, H, W, K), 64),), (64,), (x, w), expected, (N, H, W, C, K),
            sizes=f"N = {N}, H = {H}, W = {W}, C = {C}, K = {K}", mistakes={
                "The window is not centred: pixel i, j sees rows i - 1 .. i + 1.": (
                    reference.conv2d(x, w, None, 1, ((0, 2), (0, 2))),
                    reference.conv2d(x, w, None, 1, ((0, 2), (1, 1))),
                    reference.conv2d(x, w, None, 1, ((1, 1), (0, 2))),
                ),
                "The window is turned by 180 degrees.": (
                    reference.conv2d(x, np.ascontiguousarray(w[::-1, ::-1]), None, 1, padding)
                ),
                "kh and kw are swapped.": reference.conv2d(
                    x, np.ascontiguousarray(w.swapaxes(0, 1)), None, 1, padding
                ),
            },
        )  # fmt: skip
    N, H, W, C, K = 1, 8, 8, 4, 16
    arguments = draw((N, H, W, C), (3, 3, C, K)), (N, H, W, K), (N, H, W, C, K)
    lines = kernel.profile((blocks(threads(N, H, W, K), 64),), (64,), *arguments)
    # Of a warp: 16 multiplications for each kh, kw and c.
    multiplications = threads(N, H, W, K) // 32 * 9 * C * 16
    if (reads := requests(lines, "global") / multiplications) > 0.55:
        raise NotPassed(
            f"The result is right, but a warp makes {reads:.2f} requests to read x and w for each "
            "multiplication, and 0.5 suffice: read 4 numbers of x and 4 of w into registers, then "
            "multiply each with each."
        )
