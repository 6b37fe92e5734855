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
        gradients.take(group).add_to_leaves()
        if group is not groups[-1]:
            yield


class _PartGradients(Gradients):
    """Gradients of which some leaves get theirs before the others."""

    def take(self, leaves: Sequence[Tensor]) -> Gradients:
        """Remove the sums of these leaves and return them."""
        taken = Gradients()
        taken._sums = {x: self._sums.pop(x) for x in leaves if x in self._sums}
        return taken
