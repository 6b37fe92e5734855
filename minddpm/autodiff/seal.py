"""A seal on a saved array: it detects an in-place change between forward and backward.

Such a change would give a wrong gradient without an error. There are two kinds of seal:

- Small arrays and arrays that callers hold get a checksum, which the backward compares.
- Large arrays that a function allocated become read-only until the backward. That costs nothing,
  and NumPy raises at the line that writes to such an array.

Arrays on a device are not sealed: they have no such flag, and a checksum would synchronise.
"""

from minddpm import backend
from minddpm.backend import Array

CHECKSUM_BYTES = 1 << 16  # checksums of larger arrays would take noticeable time


class Seal:
    """The seal on one array. private: whether a function allocated it and no caller holds it."""

    def __init__(self, array: Array, private: bool):
        self.array = array
        large = private and array.nbytes > CHECKSUM_BYTES
        self.checksum = None if large else backend.fingerprint(array)
        self.frozen = large and backend.freeze(array)

    def is_intact(self) -> bool:
        """Return whether the checksum is unchanged; True for an array without checksum."""
        return self.checksum is None or backend.fingerprint(self.array) == self.checksum

    def remove(self) -> None:
        """Make the array writable again."""
        if self.frozen:
            backend.thaw(self.array)
