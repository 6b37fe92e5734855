"""A check for InputError, shared by the tests."""

from contextlib import contextmanager

import pytest

from minddpm.errors import InputError


@contextmanager
def refused(*words):
    """Expect an InputError in the block: one sentence that contains these words."""
    with pytest.raises(InputError) as caught:
        yield
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    for word in words:
        assert str(word) in message
