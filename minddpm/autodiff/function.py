"""The Function: one operation of the graph, with its forward and its hand-derived backward."""

from __future__ import annotations

from typing import Any

from minddpm import backend
from minddpm.autodiff.tensor import Gradients, Tensor, is_recording
from minddpm.backend import Array
from minddpm.errors import GraphError

# Checksumming more than this per array would show in the profile; see Function._seal.
_CHECKSUM_BYTES = 1 << 16


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

    def gradient_so_far(self, i: int) -> Array | None:
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
