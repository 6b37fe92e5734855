"""The graph behind a result: Tensors, the Functions that made them, and backward() through both.

    a, b = Tensor([2.0], requires_grad=True), Tensor([3.0], requires_grad=True)
    y = a * b       # y.creator is a Mul; its inputs are a and b
    y.backward()    # a.grad is [3.], b.grad is [2.]

Read Tensor, then Function (its __call__ extends the graph, its run_backward goes back through one
operation), topological_order (which operation comes next) and Gradients (the sums on the way).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from minddpm import backend
from minddpm.autodiff.seal import Seal
from minddpm.backend import Array
from minddpm.errors import GraphError


class Tensor:
    """An array with a gradient.

    References point only from results to inputs, so a graph has no cycle and is freed with the
    last reference to its result.
    """

    data: Array
    requires_grad: bool  # whether this tensor, or one that it was made from, needs a gradient
    grad: Array | None = None  # of data's shape; only leaves (tensors without a creator) have one
    creator: Function | None = None  # the function that made it
    output = 0  # which of its creator's results it is; most functions have one
    private = False  # whether a function allocated the array, so that no caller holds it

    # The operators are Functions, whose files import this one; so they are assigned there:
    #   pointwise.py   x + y, x - y, x * y, x / y, -x, x ** p   (x or y may be a number or an array)
    #   shape.py       x.sum(axis, keepdims), x.mean(axis, keepdims), x.reshape(*shape), x[index]

    __array_ufunc__ = None  # numpy_array * tensor must call Tensor.__rmul__, not NumPy's own loop

    def __init__(self, data: Any, requires_grad: bool = False):
        if isinstance(data, Tensor):
            raise TypeError("data is already a Tensor: pass its .data")
        self.data = backend.xp.asarray(data)
        if requires_grad and self.dtype.kind != "f":
            raise TypeError(f"only floating-point tensors have gradients, not {self.dtype}")
        self.requires_grad = requires_grad

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def ndim(self) -> int:
        return self.data.ndim

    @property
    def size(self) -> int:
        return self.data.size

    @property
    def dtype(self) -> Any:
        return self.data.dtype

    def item(self) -> float:
        """Return the value of a tensor with one element as a Python number."""
        return self.data.item()

    def numpy(self) -> Any:
        """Return the data as a NumPy array on the host."""
        return backend.to_numpy(self.data)

    def detach(self) -> Tensor:
        """Return the same array outside the graph: no gradient flows back through it."""
        return Tensor(self.data)

    def __len__(self) -> int:
        return len(self.data)

    def __repr__(self) -> str:
        made_by = f", made by {type(self.creator).__name__}" if self.creator else ""
        return f"Tensor({self.data}, shape {self.shape}{made_by})"

    def backward(self, g: Any = None) -> None:
        """Add the gradient of this tensor to .grad of every leaf that it was made from.

        g: the gradient with respect to this tensor, same shape; 1 by default for one element.
        Frees the graph. Raises GraphError if nothing was recorded or the graph was freed by an
        earlier backward(), ValueError if g has the wrong shape.
        """
        if g is None and self.size != 1:
            raise ValueError(f"backward() of a tensor of shape {self.shape} needs the gradient g")
        g = backend.xp.ones_like(self.data) if g is None else g
        g = backend.xp.asarray(g, dtype=self.dtype)
        if g.shape != self.shape:
            raise ValueError(f"the gradient has shape {g.shape}, the tensor {self.shape}")
        if not self.requires_grad:
            raise GraphError("no graph: no input has requires_grad, or no_grad() was active")
        gradients = Gradients()
        gradients.add(self, g)
        for function in topological_order(self):
            function.run_backward(gradients)
        gradients.add_to_leaves()


def as_tensor(x: Any) -> Tensor:
    """Return x itself if it is a Tensor, else a constant leaf around it."""
    return x if isinstance(x, Tensor) else Tensor(x)


_recording = True  # whether functions called now are added to the graph


@contextmanager
def no_grad() -> Iterator[None]:
    """Within the block record nothing: no graph, no saved arrays."""
    global _recording
    before, _recording = _recording, False
    try:
        yield
    finally:
        _recording = before


class Function:
    """One operation: options go to the constructor, tensors to the call.

        y = Conv2d(stride=2, padding=((1, 1), (1, 1)))(x, w, b)

    A subclass defines forward(*arrays) -> array, which calls self.save(...) for what the backward
    needs, and backward(gy) -> one gradient for each input (None where it has none). An input may
    be None. With several results, forward returns a tuple, and backward takes as many gy.
    """

    gives_view = False  # whether the result may share memory with the first input
    inputs: list[Tensor | None] | None = None  # if recorded; until backward() has run
    _saved: tuple[Array | None, ...] = ()
    _seals: Sequence[Seal | None] = ()  # one for each saved array
    _shapes: Sequence[tuple[int, ...]] = ()  # of the results
    _gradients: Gradients | None = None  # while this function's backward runs

    def forward(self, *arrays: Array) -> Array | tuple[Array, ...]:
        raise NotImplementedError

    def backward(self, *gys: Array) -> tuple[Array | None, ...]:
        raise NotImplementedError

    def __call__(self, *inputs: Any) -> Tensor | tuple[Tensor, ...]:
        if self.inputs is not None:
            raise GraphError(f"a {type(self).__name__} is used once: make a new one for each call")
        xs = [None if x is None else as_tensor(x) for x in inputs]
        results = self.forward(*[None if x is None else x.data for x in xs])
        several = isinstance(results, tuple)
        ys = [Tensor(y) for y in results] if several else [Tensor(results)]
        for y in ys:
            y.private = xs[0].private if self.gives_view else True
        if _recording and any(x is not None and x.requires_grad for x in xs):
            self._record(xs, ys)
        else:
            self._saved = ()
        return tuple(ys) if several else ys[0]

    def _record(self, xs: list[Tensor | None], ys: list[Tensor]) -> None:
        """Link ys to this function and this function to xs, and seal the saved arrays."""
        for i, y in enumerate(ys):
            y.creator, y.output, y.requires_grad = self, i, True
        self.inputs, self._shapes = xs, [y.shape for y in ys]
        public = [x.data for x in xs if x is not None and not x.private]
        self._seals = [
            None if saved is None else Seal(saved, all(saved is not data for data in public))
            for saved in self._saved
        ]

    def save(self, *arrays: Array | None) -> None:
        """Store arrays for the backward."""
        self._saved = arrays

    # --- what the backward uses ---

    @property
    def saved(self) -> tuple[Array | None, ...]:
        """What forward() saved. Raises GraphError if an array was changed since."""
        for i, seal in enumerate(self._seals):
            if seal is not None and not seal.is_intact():
                raise GraphError(
                    f"{type(self).__name__}: saved array {i}, of shape {seal.array.shape}, was "
                    "changed in place: change a copy, or change it after backward()"
                )
        return self._saved

    def needs_grad(self, i: int) -> bool:
        """Return whether the gradient of input i is needed."""
        return self.inputs[i].requires_grad

    def partial_gradient(self, i: int) -> Array | None:
        """Remove and return the gradient already accumulated for input i; None if there is none.

        For a backward whose kernel adds it to its own result, which saves a pass over both.
        """
        x = self.inputs[i]
        return self._gradients.pop(x.creator, x.output) if x.creator is not None else None

    def run_backward(self, gradients: Gradients) -> None:
        """Take the gradients of the results, add those of the inputs, and free the function."""
        self._gradients, inputs = gradients, self.inputs
        gxs = self.backward(*[self._result_gradient(i) for i in range(len(self._shapes))])
        # Freed one by one: saved arrays and gradients are never all alive together.
        self.free()
        for x, gx in zip(inputs, gxs, strict=True):
            if x is None or not x.requires_grad:
                continue
            if gx.shape != x.shape:
                raise ValueError(
                    f"{type(self).__name__}.backward: gx of shape {gx.shape} for x of {x.shape}"
                )
            gradients.add(x, gx)

    def _result_gradient(self, i: int) -> Array:
        """Return the gradient of result i: zeros if no function used it."""
        gy = self._gradients.pop(self, i)
        return backend.xp.zeros(self._shapes[i], self.inputs[0].dtype) if gy is None else gy

    def free(self) -> None:
        """Release the inputs and the saved arrays."""
        for seal in self._seals:
            if seal is not None:
                seal.remove()
        self.inputs, self._saved, self._seals, self._gradients = None, (), (), None


# Why an order? In b = a + a; c = b * b, the gradient of b is a sum of two parts. Following each
# path on its own would run b's backward once for each part, and in a deep graph 2^depth times. In
# topological order a function runs once, when the gradient of its result is complete.
# Why no recursion? A chain of functions is thousands long; Python's stack ends at one thousand.
def topological_order(y: Tensor) -> list[Function]:
    """Return every function behind y, each one after all functions that used its results."""
    order: list[Function] = []
    seen: set[Function] = set()
    stack = [(y.creator, False)]
    while stack:
        function, inputs_done = stack.pop()
        if inputs_done:
            order.append(function)  # post-order: after everything that it was made from
        elif function is not None and function not in seen:
            if function.inputs is None:
                raise GraphError(
                    "backward() freed this graph: compute it again, or add up the losses first"
                )
            seen.add(function)
            stack.append((function, True))
            stack.extend((x.creator, False) for x in function.inputs if x is not None)
    return order[::-1]


class Gradients:
    """The gradients that one backward() has accumulated.

    A function holds no reference to its results (that would be a cycle), so the gradient of a
    result is found by (creator, output), and that of a leaf by the leaf.
    """

    def __init__(self) -> None:
        # The sum, and whether it was allocated here: nothing else refers to that array.
        self._sums: dict[Any, tuple[Array, bool]] = {}

    def add(self, x: Tensor, gx: Array) -> None:
        """Add gx, the gradient from one use of x."""
        key = x if x.creator is None else (x.creator, x.output)
        total, ours = self._sums.get(key, (None, False))
        if total is None:
            self._sums[key] = gx, False
        elif ours:
            backend.kernels.add_to(total, gx)
        else:
            # Neither may be written to: a backward may return one array for two inputs, as that
            # of a + b does, or a view of its gy, and the first gy is the caller's.
            self._sums[key] = backend.kernels.add(total, gx), True

    def pop(self, creator: Function, output: int) -> Array | None:
        """Remove and return the gradient of a function's result; None if there is none."""
        return self._sums.pop((creator, output), (None,))[0]

    def add_to_leaves(self) -> None:
        """Add the sums to .grad of their leaves, all in one kernel."""
        totals, gradients = [], []
        for leaf, (gx, _) in self._sums.items():
            if leaf.grad is None:
                # A copy: the array may be another tensor's gradient too, as for both inputs of
                # a + b. xp.array, because arithmetic of 0-d arrays gives scalars, which += rebinds.
                leaf.grad = backend.xp.array(gx)
            else:
                # Until zero_grad, backward() adds: two graphs give what one graph of both would.
                totals.append(leaf.grad)
                gradients.append(gx)
        if totals:
            backend.kernels.add_all(tuple(totals), tuple(gradients))
