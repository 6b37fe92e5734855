"""The autodiff graph: Tensors, the Functions that computed them, and the backward pass.

    a, b = Tensor([2.0], requires_grad=True), Tensor([3.0], requires_grad=True)
    y = a * b       # y.creator is a Mul; its inputs are a and b
    y.backward()    # a.grad is [3.], b.grad is [2.]

Read Tensor, then Function (__call__ extends the graph, run_backward computes the gradients of the
inputs), topological_order (the order of the run_backward calls) and Gradients (accumulated sums).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from minddpm import backend
from minddpm.autodiff.seal import Seal
from minddpm.backend import Array
from minddpm.errors import GraphError


class Tensor:
    """An array with a gradient.

    As with arrays: shape, ndim, size, dtype; + - * / ** and unary -, with broadcasting and NumPy's
    choice of the result's dtype (a Python number takes the tensor's); sum, mean, reshape; x[...]
    with integers and slices; len; bool, float and int of one element; == < <= > >= !=, which give
    arrays of booleans. Not as with arrays: x += y makes a new tensor, and NumPy functions take a
    tensor only if it requires no gradient. A gradient has the dtype of its tensor.

    References point only from results to inputs, so a graph has no cycle and is freed with the
    last reference to its result.
    """

    data: Array
    requires_grad: bool  # whether this tensor, or one behind it, needs a gradient
    grad: Array | None = None  # of data's shape; only leaves (tensors without a creator) have one
    creator: Function | None = None  # the function that computed this tensor
    output = 0  # index among the creator's results; most functions have one result
    private = False  # whether a function allocated the array, so that no caller holds it

    # The operators are Functions in files that import this one, so those files assign them:
    #   pointwise.py   x + y, x - y, x * y, x / y, -x, x ** p, x == y, x < y ...
    #                  (x or y may be a number or an array)
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
        """Return a tensor of the same array outside the graph: no gradient flows through it."""
        return Tensor(self.data)

    def __len__(self) -> int:
        return len(self.data)

    def __bool__(self) -> bool:
        return bool(self.data)

    def __float__(self) -> float:
        return float(self.data)

    def __int__(self) -> int:
        return int(self.data)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        # NumPy's functions have no gradient: a silent conversion would cut the graph.
        if self.requires_grad:
            raise TypeError("a tensor that requires a gradient is no array: use .data or .numpy()")
        return np.array(self.numpy(), dtype, copy=True if copy is None else copy)

    def __repr__(self) -> str:
        made_by = f", made by {type(self.creator).__name__}" if self.creator else ""
        return f"Tensor({self.data}, shape {self.shape}{made_by})"

    def backward(self, g: Any = None) -> None:
        """Compute the gradient with respect to every leaf behind this tensor; add it to leaf.grad.

        g: gradient of the loss with respect to this tensor, same shape (one element: default 1).
        Frees the graph. Raises GraphError if no graph was recorded or an earlier backward() freed
        it, ValueError if g has the wrong shape.
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
    """Return x if it is a Tensor, else a constant leaf that holds x."""
    return x if isinstance(x, Tensor) else Tensor(x)


class _Recording(threading.local):
    """Whether functions that this Python thread calls now are added to the graph."""

    on = True


_recording = _Recording()


@contextmanager
def no_grad() -> Iterator[None]:
    """Within the block, record no graph and save no arrays; other Python threads still do."""
    before, _recording.on = _recording.on, False
    try:
        yield
    finally:
        _recording.on = before


def records_graph() -> bool:
    """Return whether functions that this Python thread calls now are added to the graph."""
    return _recording.on


class Function:
    """One operation. The constructor takes its options, the call takes its tensors.

        y = Conv2d(stride=2, padding=((1, 1), (1, 1)))(x, w, b)

    A subclass defines forward(*arrays), which returns an array and stores what backward needs with
    self.save(...), and backward(gy), which returns one gradient for each input, or None for an
    input without one. An input may be None. A forward with several results returns a tuple; its
    backward then takes one gy for each result.
    """

    gives_view = False  # whether the result may share memory with the first input
    inputs: list[Tensor | None] | None = None  # set if recorded; None again after backward()
    _saved: tuple[Array | None, ...] = ()
    _seals: Sequence[Seal | None] = ()  # one for each saved array
    _shapes: Sequence[tuple[int, ...]] = ()  # shapes of the results
    _gradients: Gradients | None = None  # set while this function's backward runs

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
        if _recording.on and any(x is not None and x.requires_grad for x in xs):
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

    # --- used by backward ---

    @property
    def saved(self) -> tuple[Array | None, ...]:
        """The arrays that forward() saved. Raises GraphError if one was changed since."""
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

        For a backward whose kernel adds this gradient to its own result in the same pass.
        """
        x = self.inputs[i]
        return self._gradients.pop(x.creator, x.output) if x.creator is not None else None

    def run_backward(self, gradients: Gradients) -> None:
        """Read the gradients of the results, add those of the inputs, and free the function."""
        self._gradients, inputs = gradients, self.inputs
        gxs = self.backward(*[self._result_gradient(i) for i in range(len(self._shapes))])
        # Freed after each function: saved arrays and gradients are never all in memory together.
        self.free()
        for x, gx in zip(inputs, gxs, strict=True):
            if x is None or not x.requires_grad:
                continue
            if gx.shape != x.shape:
                raise ValueError(
                    f"{type(self).__name__}.backward: gx of shape {gx.shape} for x of {x.shape}"
                )
            # An operand of a wider type, such as float64, gives a gradient of that type.
            gradients.add(x, gx if gx.dtype == x.dtype else gx.astype(x.dtype))

    def _result_gradient(self, i: int) -> Array:
        """Return the gradient of result i: zeros if no function used that result."""
        gy = self._gradients.pop(self, i)
        return backend.xp.zeros(self._shapes[i], self.inputs[0].dtype) if gy is None else gy

    def free(self) -> None:
        """Release the inputs and the saved arrays."""
        for seal in self._seals:
            if seal is not None:
                seal.remove()
        self.inputs, self._saved, self._seals, self._gradients = None, (), (), None


# Why an order? In b = a + a; c = b * b, the gradient of b is a sum of two parts. Following each
# path separately would run b's backward once for each part, and in a deep graph 2^depth times. In
# topological order each backward runs once, when the gradient of its result is complete.
# Why no recursion? A graph can be thousands of functions deep; Python allows about 1,000 calls.
def topological_order(y: Tensor) -> list[Function]:
    """Return all functions behind y, each after all functions that use its results."""
    order: list[Function] = []
    seen: set[Function] = set()
    stack = [(y.creator, False)]
    while stack:
        function, inputs_done = stack.pop()
        if inputs_done:
            order.append(function)  # post-order: after all functions behind its inputs
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

    A function holds no reference to its results (that would be a cycle), so the key of a
    result's gradient is (creator, output), and the key of a leaf's gradient is the leaf.
    """

    def __init__(self) -> None:
        # The sum, and whether it was allocated here, so that nothing else refers to its array.
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
            # Neither total nor gx may be written to: a backward may return one array for both
            # inputs (a + b does), or a view of its gy, and the first gy is the caller's.
            self._sums[key] = backend.kernels.add(total, gx), True

    def pop(self, creator: Function, output: int) -> Array | None:
        """Remove and return the gradient of a function's result; None if there is none."""
        return self._sums.pop((creator, output), (None,))[0]

    def add_to_leaves(self) -> None:
        """Add each sum to its leaf's .grad, all in one kernel."""
        # An optimiser's parameter always has a .grad, a view of one flat buffer (nn/flat.py).
        totals, gradients = [], []
        for leaf, (gx, _) in self._sums.items():
            if leaf.grad is None:
                # A copy, because the array may also be another tensor's gradient (as in a + b).
                # xp.array, because 0-d arithmetic gives scalars, for which += would rebind.
                leaf.grad = backend.xp.array(gx)
            else:
                # backward() adds until zero_grad: two graphs give the same .grad as one of both.
                totals.append(leaf.grad)
                gradients.append(gx)
        if totals:
            backend.kernels.add_all(tuple(totals), tuple(gradients))
