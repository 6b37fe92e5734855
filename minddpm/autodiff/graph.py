"""The Tensor: an array that remembers which function made it, and backward() through the graph."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from minddpm import backend
from minddpm.backend import Array
from minddpm.errors import GraphError

# Checksumming more than this per array would show in the profile; see Function._seal.
_CHECKSUM_BYTES = 1 << 16

_recording = True


def is_recording() -> bool:
    """Whether functions called now are added to the graph."""
    return _recording


@contextmanager
def no_grad() -> Iterator[None]:
    """Within the block nothing is recorded: no graph, no saved arrays."""
    global _recording
    before, _recording = _recording, False
    try:
        yield
    finally:
        _recording = before


class Tensor:
    """An array with a gradient.

    data           the array
    grad           the gradient of the last backward() calls, an array of the same shape, or None;
                   only leaves (tensors that no function made) keep theirs
    requires_grad  whether a gradient is wanted, for itself or for something it was made from
    creator        the Function that made it, None for a leaf
    output         which of its creator's results it is; most functions have one

    References point only from results to inputs, so a graph has no cycle and goes away with the
    last reference to its result.
    """

    __array_ufunc__ = None  # numpy_array * tensor must call Tensor.__rmul__, not NumPy's own loop

    def __init__(self, data: Any, requires_grad: bool = False):
        if isinstance(data, Tensor):
            raise TypeError("a Tensor of a Tensor has no meaning: pass its .data")
        self.data = backend.xp.asarray(data)
        if requires_grad and self.data.dtype.kind != "f":
            raise TypeError(f"only floating-point tensors have gradients, not {self.data.dtype}")
        self.grad: Array | None = None
        self.requires_grad = requires_grad
        self.creator: Function | None = None
        self.output = 0
        self.private = False  # whether a function made the array, so that nobody else holds it

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
        """The value of a tensor with one element, as a Python number."""
        return self.data.item()

    def numpy(self) -> Any:
        """The data as a NumPy array on the host."""
        return backend.to_numpy(self.data)

    def detach(self) -> Tensor:
        """The same array, cut off from the graph: no gradient flows back through it."""
        return Tensor(self.data)

    def __len__(self) -> int:
        return len(self.data)

    def __repr__(self) -> str:
        made_by = f", made by {type(self.creator).__name__}" if self.creator else ""
        return f"Tensor({self.data}, shape {self.shape}{made_by})"

    def backward(self, g: Any = None) -> None:
        """Add the gradient of this tensor to .grad of every leaf that it was made from.

        g: the gradient with respect to this tensor, same shape; may be left out for one element
        (then 1). The graph is freed on the way, function by function, so that the saved arrays
        and the gradients are never all alive together.

        A second backward() of a new graph adds to .grad rather than replacing it: a leaf that is
        used twice gets the sum of both uses, and two graphs are no different from one.

        Raises GraphError if nothing was recorded or the graph was freed by an earlier backward(),
        ValueError if g has the wrong shape.
        """
        if g is None:
            if self.size != 1:
                raise ValueError(
                    f"backward() of a tensor of shape {self.shape} needs the gradient g with "
                    "respect to it; only a single number starts from 1"
                )
            g = backend.xp.ones_like(self.data)
        g = backend.xp.asarray(g, dtype=self.dtype)
        if g.shape != self.shape:
            raise ValueError(f"the gradient has shape {g.shape}, the tensor {self.shape}")
        if not self.requires_grad:
            raise GraphError(
                "backward() of a tensor that depends on no tensor with requires_grad, "
                "or was made under no_grad()"
            )
        grads = Gradients()
        grads.add(self, g)
        for function in topological_order(self.creator) if self.creator else ():
            inputs = function.inputs
            gradients = function.run_backward(grads)
            function.free()
            for x, gx in zip(inputs, gradients, strict=True):
                if x is None or not x.requires_grad:
                    continue
                if gx.shape != x.shape:
                    raise ValueError(
                        f"{type(function).__name__}.backward gave a gradient of shape {gx.shape} "
                        f"for an input of shape {x.shape}"
                    )
                grads.add(x, gx)
            # Drop the last references of this round before the next function allocates its own.
            del inputs, gradients, x, gx
        grads.give_to_leaves()


def as_tensor(x: Any) -> Tensor:
    """x itself if it is a Tensor, else a constant leaf around it."""
    return x if isinstance(x, Tensor) else Tensor(x)


class Function:
    """One operation: options go to the constructor, tensors to the call.

        y = Conv2d(stride=2, padding=1)(x, w, b)

    A subclass defines forward(*arrays) -> array, which calls self.save(...) for what the backward
    will need, and backward(gy) -> one gradient for each input (None where it has none). An input
    may be left out: None stands for it. With several results, forward gives a tuple of arrays, and
    backward takes as many gy.
    """

    gives_view = False  # whether the result may share memory with the first input
    inputs: tuple[Tensor | None, ...] | None = None
    _saved: tuple[Array | None, ...] = ()
    _frozen: tuple[Array, ...] = ()
    _shapes: tuple[tuple[int, ...], ...] = ()  # of the results
    _gradients: Gradients | None = None

    def forward(self, *arrays: Array) -> Array | tuple[Array, ...]:
        raise NotImplementedError

    def backward(self, *gys: Array) -> tuple[Array | None, ...]:
        raise NotImplementedError

    def __call__(self, *inputs: Any) -> Tensor | tuple[Tensor, ...]:
        if self.inputs is not None:
            raise GraphError(f"a {type(self).__name__} is used once: make a new one for each call")
        tensors = tuple(None if x is None else as_tensor(x) for x in inputs)
        results = self.forward(*(None if x is None else x.data for x in tensors))
        several = isinstance(results, tuple)
        ys = tuple(map(Tensor, results if several else (results,)))
        recorded = is_recording() and any(x is not None and x.requires_grad for x in tensors)
        for i, y in enumerate(ys):
            y.private = tensors[0].private if self.gives_view else True
            if recorded:
                y.creator, y.output, y.requires_grad = self, i, True
        if recorded:
            self.inputs, self._shapes = tensors, tuple(y.shape for y in ys)
            self._seal()
        else:
            self._saved = ()
        return ys if several else ys[0]

    def run_backward(self, gradients: Gradients) -> tuple[Array | None, ...]:
        """backward() of what is known of the results' gradients."""
        self._gradients = gradients
        gys = [gradients.of(self, i) for i in range(len(self._shapes))]
        for i, gy in enumerate(gys):
            if gy is None:  # a result that nobody used
                gys[i] = backend.xp.zeros(self._shapes[i], self.inputs[0].dtype)
        return self.backward(*gys)

    def partial_gradient(self, i: int) -> Array | None:
        """What others have found to be the gradient of input i; None if nothing, or not wanted.

        For a backward whose kernel can add it to its own result, which saves a pass over both.
        """
        x = self.inputs[i]
        return self._gradients.take(x) if x.requires_grad and x.creator is not None else None

    def save(self, *arrays: Array | None) -> None:
        """Keep arrays for the backward."""
        self._saved = arrays

    @property
    def saved(self) -> tuple[Array | None, ...]:
        """What forward() saved. Raises GraphError if an array was changed since."""
        for i, (array, seal) in enumerate(zip(self._saved, self._seals, strict=True)):
            if seal is not None and backend.fingerprint(array) != seal:
                raise GraphError(
                    f"an array of shape {array.shape} that {type(self).__name__} saved for its "
                    f"backward (number {i}) was changed in place: its gradient would be wrong; "
                    "change a copy, or change it after backward()"
                )
        return self._saved

    def needs_grad(self, i: int) -> bool:
        """Whether anything asks for the gradient of input i."""
        return self.inputs[i].requires_grad

    def free(self) -> None:
        """Let go of the saved arrays and the inputs: this function's backward is done."""
        for array in self._frozen:
            backend.thaw(array)
        self.inputs, self._saved, self._seals, self._frozen = None, (), (), ()
        self._gradients = None

    def _seal(self) -> None:
        # A change in place between forward and backward would give a wrong gradient in silence.
        # The user's arrays and small ones: their checksum is compared before the backward. Large
        # ones that a function made become read-only until then, which costs nothing and lets NumPy
        # raise at the very line that writes to them.
        public = {id(x.data) for x in self.inputs if x is not None and not x.private}
        seals, frozen = [], []
        for array in self._saved:
            if array is None:
                seals.append(None)
            elif array.nbytes <= _CHECKSUM_BYTES or id(array) in public:
                seals.append(backend.fingerprint(array))
            else:
                seals.append(None)
                if backend.freeze(array):
                    frozen.append(array)
        self._seals, self._frozen = tuple(seals), tuple(frozen)


class Gradients:
    """What backward() knows of each tensor's gradient so far."""

    def __init__(self) -> None:
        # The sum, and whether it was made here, so that nobody else has seen the array.
        self._sums: dict[Any, tuple[Array, bool]] = {}

    def add(self, x: Tensor, gx: Array) -> None:
        """One more use of x has found that its gradient is gx."""
        key = _key(x)
        before, ours = self._sums.pop(key, (None, False))
        if before is None:
            self._sums[key] = gx, False
        elif ours:
            backend.kernels.add_to(before, gx)
            self._sums[key] = before, True
        else:
            # Neither may be written to: a backward may have given one array to two inputs, as that
            # of a + b does, or a view of its gy, and the first gy is the user's.
            self._sums[key] = backend.kernels.add(before, gx), True

    def take(self, x: Tensor) -> Array | None:
        """The gradient of x so far, which is forgotten here: who takes it adds it to his own."""
        return self._sums.pop(_key(x), (None,))[0]

    def of(self, function: Function, output: int) -> Array | None:
        """The whole gradient of a function's result, once all who used it are done."""
        return self._sums.pop((function, output), (None,))[0]

    def give_to_leaves(self) -> None:
        """Add to .grad of every leaf, as every backward() does until zero_grad; all at once."""
        totals, gradients = [], []
        for leaf, (gx, _) in self._sums.items():
            if leaf.grad is None:
                # A copy: the array may be another tensor's gradient, too, as of both inputs of
                # a + b. And an array: of 0-d arrays arithmetic makes scalars, which += changes not.
                leaf.grad = backend.xp.array(gx)
            else:
                totals.append(leaf.grad)
                gradients.append(gx)
        if totals:
            backend.kernels.add_all(tuple(totals), tuple(gradients))


def _key(x: Tensor) -> Any:
    # A result is known by its function: the tensor itself may be gone, and a view of it stand in an
    # input's place. A leaf is known by itself.
    return x if x.creator is None else (x.creator, x.output)


def topological_order(last: Function) -> list[Function]:
    """Every function behind `last`, each one after all the functions that used its result.

    Why an order at all? In b = a + a; c = b * b, the gradient of b is a sum of two parts. Walking
    back along each path on its own would run b's backward twice, once for each part, and in a deep
    graph 2^depth times. In topological order a function runs once, when its gradient is complete.

    Why no recursion? A chain of functions is thousands long; Python's stack ends at one thousand.
    """
    order: list[Function] = []
    seen: set[Function] = set()
    stack = [(last, False)]
    while stack:
        function, inputs_done = stack.pop()
        if inputs_done:
            order.append(function)  # post-order: behind everything that it was made from
            continue
        if function in seen:
            continue
        if function.inputs is None:
            raise GraphError(
                "backward() through a graph that an earlier backward() has freed: "
                "compute the result again, or add the losses up before one backward()"
            )
        seen.add(function)
        stack.append((function, True))
        stack.extend(
            (x.creator, False) for x in function.inputs if x is not None and x.creator is not None
        )
    return order[::-1]
