"""All parameters in one flat buffer, so that an optimiser step is one pass over one array."""

from bisect import bisect_left
from collections.abc import Iterable
from itertools import accumulate, pairwise

from minddpm import backend
from minddpm.backend import Array
from minddpm.nn.module import Parameter

ALIGNMENT = 16  # float32 numbers: 64 bytes, one cache line


class FlatParameters:
    """Moves parameters into one flat array `data` and their gradients into one flat `grad`.

    Each parameter's .data and .grad become views of these, so that Adam, EMA, the gradient norm
    and zeroing the gradients take one operation each instead of one per parameter.
    """

    def __init__(self, parameters: Iterable[Parameter]):
        self.parameters = list(parameters)
        if not self.parameters:
            raise ValueError("there are no parameters to optimise")
        size = self.starts()[-1]
        self.data = backend.xp.zeros(size, self.parameters[0].dtype)
        self.grad = backend.xp.zeros(size, self.parameters[0].dtype)
        views = zip(self.parameters, self.views(self.data), self.views(self.grad), strict=True)
        for p, data, grad in views:
            p.bind(data, grad)

    def views(self, flat: Array) -> list[Array]:
        """Return views of a flat array of this layout, one for each parameter."""
        return [
            flat[start : start + p.size].reshape(p.shape)
            for start, p in zip(self.starts(), self.parameters, strict=False)
        ]

    def buckets(self, count: int) -> list[tuple[slice, list[Parameter]]]:
        """Return at most `count` ranges of a flat array, of similar size, and their parameters."""
        starts = self.starts()
        cuts = sorted({bisect_left(starts, starts[-1] * i // count) for i in range(count + 1)})
        return [(slice(starts[a], starts[b]), self.parameters[a:b]) for a, b in pairwise(cuts)]

    def starts(self) -> list[int]:
        """Return where each parameter begins in a flat array, and the size of all together."""
        return list(accumulate((_padded(p.size) for p in self.parameters), initial=0))


def _padded(size: int) -> int:
    # Padding makes every array begin at an aligned address; it is zero and stays zero.
    return -(-size // ALIGNMENT) * ALIGNMENT
