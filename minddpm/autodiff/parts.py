"""A backward in parts: between them, the gradients that are complete can be used already."""

from collections.abc import Iterator, Sequence

from minddpm.autodiff.graph import Gradients, Tensor, topological_order
from minddpm.backend import Array


def backward_in_parts(y: Tensor, g: Array, groups: Sequence[Sequence[Tensor]]) -> Iterator[None]:
    """Do what y.backward(g) does, one group of leaves after the other.

    Each next() goes on until the gradients of one more group are in its leaves, and the last one
    ends the iterator. groups: all leaves whose gradients are wanted. g: of y's shape and dtype.
    """
    order, gradients, done = topological_order(y), _PartGradients(), 0
    gradients.add(y, g)
    wanted = {x for group in groups for x in group}
    last = {x: i for i, function in enumerate(order) for x in function.inputs if x in wanted}
    for group in groups:
        # A leaf that no function has as its input may be a weight within a function (replay.py).
        end = 1 + max(last.get(x, len(order)) for x in group)
        for function in order[done:end]:
            function.run_backward(gradients)
        done = max(done, end)
        gradients.add_to(group)
        if group is not groups[-1]:
            yield


class _PartGradients(Gradients):
    """Gradients of which some leaves get theirs before the others."""

    def add_to(self, leaves: Sequence[Tensor]) -> None:
        """Add the sums of these leaves to their .grad, all in one kernel."""
        complete = {x: self._sums[x] for x in leaves if x in self._sums}
        others = {x: total for x, total in self._sums.items() if x not in complete}
        self._sums = complete
        self.add_to_leaves()
        self._sums = others
