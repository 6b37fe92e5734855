"""What the tests of the emulator share: planted bugs, real kernels, costs, a tiny trainer."""

from pathlib import Path

import numpy as np
from builders import TINY, make_trainer, noise_images

import minddpm
from minddpm import kernels
from minddpm.kernels.emulator import Library, device_array, device_empty
from minddpm.kernels.emulator.profile import Line

CUDA = Path(kernels.__file__).parent / "cuda"
THREAD = r"thread \(\d+, \d+, \d+\) of block \(\d+, \d+, \d+\)"


def planted(file: str, right: str, wrong: str, mode: str = "plain") -> Library:
    """Return the library of a real .cu file with one bug in it."""
    source = (CUDA / file).read_text()
    assert source.count(right) >= 1, "the kernel has changed: plant the bug elsewhere"
    return Library(source.replace(right, wrong, 1), CUDA / file, mode)


def line_of(file: str, text: str) -> int:
    """Return the number of the first line of a .cu file that contains the text."""
    return next(
        i for i, line in enumerate((CUDA / file).read_text().splitlines(), 1) if text in line
    )


def excess(lines: list[Line], space: str, kind: str) -> float:
    """Return the transactions of all accesses of this kind, as a multiple of the ideal."""
    chosen = [line for line in lines if (line.space, line.kind) == (space, kind)]
    return sum(line.transactions for line in chosen) / sum(line.ideal for line in chosen)


def norm_backward(library: Library, order: int = 0) -> list[np.ndarray]:
    """Return gx, gweight, gbias of group_norm_backward for two small images."""
    rng = np.random.default_rng(0)
    N, P, C, groups = 2, 20, 40, 5
    gy, x = (device_array(rng.standard_normal((N, P, C), np.float32)) for _ in range(2))
    weight, bias = (device_array(rng.standard_normal(C, np.float32)) for _ in range(2))
    mean, rstd = (device_array(rng.random((N, groups), np.float32)) for _ in range(2))
    results = device_empty(x.shape), device_empty(C), device_empty(C)
    sums, counters = device_empty((N, 2, C)), device_array(np.zeros(groups, np.uint32))
    none, C1 = np.uint64(0), np.int32(C)
    library.launch(
        "group_norm_backward", (groups * N,), (256,),
        (gy, x, none, C1, weight, bias, mean, rstd, none, none, results[0], none, *results[1:],
         sums, counters, *map(np.int32, (P, C, C // groups, 1, groups, 1))),
        order=order,
    )  # fmt: skip
    assert (counters == 0).all()
    return [result.copy() for result in results]


def silu(library: Library, n: int, block: int = 64) -> np.ndarray:
    """Return silu of n numbers from -3 to 3, computed by two blocks."""
    x, y = device_array(np.linspace(-3, 3, n, dtype=np.float32)), device_empty(n)
    library.launch("silu", (2,), (block,), (x, y, np.int32(n)))
    return y.copy()


def trainer(backend, path):
    """Return a Trainer of a tiny UNet with the same initial weights on every backend."""
    minddpm.set_backend(backend)
    minddpm.manual_seed(0)
    return make_trainer(
        path, minddpm.UNet2D(**TINY), noise_images(6), T=100, batch_size=4, warmup_steps=1
    )
