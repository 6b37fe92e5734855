"""Gradients that the ranks add up in buckets, while the backward computes the next bucket."""

from collections.abc import Callable, Iterator

from minddpm.autodiff import Tensor
from minddpm.autodiff.parts import backward_in_parts
from minddpm.backend import Array
from minddpm.nn.flat import FlatParameters
from minddpm.parallel import Alone

COUNT = 4  # the last one, whose sum nothing hides, is a quarter of all


class Buckets:
    """Ranges of a flat gradient, in the order in which a backward completes them.

        buckets.begin(losses, g)       # instead of losses.backward(g)
        buckets.sum(buckets.complete)  # the backward, one bucket after the other, and the sums

    A step may record and replay begin() and complete(), which compute, but not the sums.
    """

    def __init__(self, flat: FlatParameters, world: Alone):
        self._ranges, self._groups = zip(*flat.buckets(COUNT), strict=True)
        self._flat, self._world = flat, world
        self._backward: Iterator[None] = iter(())

    def __len__(self) -> int:
        return len(self._ranges)

    def begin(self, losses: Tensor, g: Array) -> None:
        """Prepare the backward of these losses; it computes nothing yet."""
        self._backward = backward_in_parts(losses, g, self._groups)

    def complete(self, step: int = 0) -> None:
        """Compute the gradients of the next bucket. step: for a replay, which draws masks again."""
        next(self._backward, None)

    def sum(self, complete: Callable[[], None]) -> None:
        """Call complete() for each bucket; meanwhile add up those before it over all ranks."""
        ends = []
        for part in self._ranges:
            complete()
            ends.append(self._world.begin_sum(self._flat.grad[part]))
        for end in ends:
            end()
