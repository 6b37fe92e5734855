"""All parameters in one flat buffer, so that the optimiser is one pass over one array."""

from collections.abc import Iterable

from minddpm import backend
from minddpm.backend import Array
from minddpm.nn.module import Parameter


class FlatParameters:
    """Moves parameters into one flat array `data` and their gradients into one flat `grad`.

    Each parameter's .data and .grad become views of these: Adam, EMA, the gradient norm and
    zeroing the gradients are then each one operation instead of one per parameter.
    """

    def __init__(self, parameters: Iterable[Parameter]):
        self.parameters = list(parameters)
        if not self.parameters:
            raise ValueError("there are no parameters to optimise")
        size = sum(p.size for p in self.parameters)
        self.data = backend.xp.empty(size, self.parameters[0].dtype)
        self.grad = backend.xp.zeros(size, self.parameters[0].dtype)
        views = zip(self.parameters, self.views(self.data), self.views(self.grad), strict=True)
        for p, data, grad in views:
            p.bind(data, grad)

    def views(self, flat: Array) -> list[Array]:
        """A flat array of this layout, cut into one view per parameter."""
        views, start = [], 0
        for p in self.parameters:
            views.append(flat[start : start + p.size].reshape(p.shape))
            start += p.size
        return views
