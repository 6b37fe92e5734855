"""The Function: one operation of the graph, with its forward and its hand-derived backward."""

from __future__ import annotations

from typing import Any

from minddpm import backend
from minddpm.autodiff.tensor import Tensor, is_recording
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
    may be left out: None stands for it.
    """

    gives_view = False  # whether the result may share memory with the first input
    inputs: tuple[Tensor | None, ...] | None = None
    _saved: tuple[Array | None, ...] = ()
    _frozen: tuple[Array, ...] = ()

    def forward(self, *arrays: Array) -> Array:
        raise NotImplementedError

    def backward(self, gy: Array) -> tuple[Array | None, ...]:
        raise NotImplementedError

    def __call__(self, *inputs: Any) -> Tensor:
        if self.inputs is not None:
            raise GraphError(f"a {type(self).__name__} is used once: make a new one for each call")
        tensors = tuple(None if x is None else as_tensor(x) for x in inputs)
        y = Tensor(self.forward(*(None if x is None else x.data for x in tensors)))
        y.private = tensors[0].private if self.gives_view else True
        if is_recording() and any(x is not None and x.requires_grad for x in tensors):
            self.inputs = tensors
            y.creator, y.requires_grad = self, True
            self._seal()
        else:
            self._saved = ()
        return y

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
