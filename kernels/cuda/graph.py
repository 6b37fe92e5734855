"""A whole denoising step as one CUDA graph: recorded once, then repeated by a single launch.

A graph repeats its kernels with the very arguments that they were recorded with. So what changes
from step to step lies on the device: a table with a row for each step, and the number of the step,
which the first kernel counts up (random.cu, begin_step).
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minddpm.backend import Array
from minddpm.kernels.cuda.launch import blocks, cupy, each, launch


class Repeated:
    """A function that launches the same kernels on the same arrays at every call.

    The first call runs it, which compiles what was not compiled yet; the second records it while
    nothing runs; from then on the host has one launch to make.
    """

    def __init__(self, function: Callable[[], None]):
        cuda = cupy().cuda
        self._function = function
        self._stream = cuda.Stream(non_blocking=True)  # the null stream cannot record
        # Arrays within the function are free again at its end, and nobody else may have their
        # memory, where the graph goes on writing. The first call leaves here all that it needs.
        self._pool = cuda.MemoryPool()
        self._ran = False
        self._graph: Any = None

    def __call__(self) -> None:
        """Once more, after what the current stream has to do, and before what it is given next."""
        cuda = cupy().cuda
        current = cuda.get_current_stream()
        self._stream.wait_event(current.record())
        with self._stream, cuda.using_allocator(self._pool.malloc):
            if not self._ran:
                self._function()
                self._ran = True
            else:
                self._graph = self._graph or self._record()
                self._graph.launch(self._stream)
        current.wait_event(self._stream.record())

    def _record(self) -> Any:
        self._stream.begin_capture()
        try:
            self._function()
        finally:
            graph = self._stream.end_capture()
        return graph


def denoise(
    run: Callable[[Array, Array], Array], x_T: Array, timesteps: np.ndarray,
    coefficients: np.ndarray, clip: bool, stream: tuple[int, int, int],
) -> Iterator[tuple[Array, Array]]:  # fmt: skip
    """reference.denoise with noise drawn here, as copies of what the graph writes to."""
    xp, (seed, purpose, first) = cupy(), stream
    steps = xp.asarray(np.asarray(timesteps, np.int64))
    table = xp.asarray(np.ascontiguousarray(coefficients, np.float32))
    number = xp.zeros(1, "int32")
    t = xp.empty(len(x_T), "int64")
    x = x_T.copy()
    pred_x0 = xp.empty(x.shape, "float32")
    key = np.uint64(first), np.uint32(seed), np.uint32(purpose)

    def step() -> None:
        launch("random.cu", "begin_step", (1,), (256,), steps, number, t, len(t))
        output = xp.ascontiguousarray(run(x, t), dtype="float32")
        each(
            "random.cu", "sampler_step_at", blocks(x.size + first % 4, 4), table, number, x,
            output, pred_x0, clip, *key, x.size,
        )  # fmt: skip

    repeated = Repeated(step)
    for _ in timesteps:
        repeated()
        yield x.copy(), pred_x0.copy()
