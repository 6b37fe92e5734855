"""What several test files say in the same words."""

from contextlib import contextmanager

import pytest

from minddpm.errors import InputError


@contextmanager
def refused(*words):
    """InputError, in one sentence with these words in it."""
    with pytest.raises(InputError) as caught:
        yield
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    for word in words:
        assert str(word) in message
