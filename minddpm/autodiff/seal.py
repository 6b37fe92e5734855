"""A seal on a saved array: a change in place between forward and backward does not go unnoticed.

Such a change would give a wrong gradient without an error. There are two kinds of seal:

- Arrays that callers hold, and small ones, are checksummed; the backward compares the checksum.
- Large arrays that a function allocated become read-only until the backward. That costs nothing,
  and NumPy raises at the very line that writes to them.

An array on a device has neither: no flag, and a checksum would force a synchronisation.
"""

from minddpm import backend
from minddpm.backend import Array

CHECKSUM_BYTES = 1 << 16  # checksumming larger arrays would show in the profile


class Seal:
    """The seal on one array; private: whether a function allocated it and no caller holds it."""

    def __init__(self, array: Array, private: bool):
        self.array = array
        large = private and array.nbytes > CHECKSUM_BYTES
        self.checksum = None if large else backend.fingerprint(array)
        self.frozen = large and backend.freeze(array)

    def is_intact(self) -> bool:
        """Return whether the array is unchanged, as far as the seal can tell."""
        return self.checksum is None or backend.fingerprint(self.array) == self.checksum

    def remove(self) -> None:
        """Make the array writable again."""
        if self.frozen:
            backend.thaw(self.array)
