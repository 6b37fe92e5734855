"""InputError: one line that can be printed, whatever a file holds."""

from minddpm.errors import LONGEST, InputError


def test_a_message_is_one_printable_line():
    message = str(InputError("a\nb\x1b[31m \ud800 é: choose c."))
    assert message == "a\\nb\\x1b[31m \\ud800 é: choose c."


def test_a_long_message_keeps_its_beginning_and_its_remedy():
    message = str(InputError(f"run.json has x={'9' * 10**6}: restore the value."))
    assert message.startswith("run.json has x=999")
    assert message.endswith("9: restore the value.")
    assert len(message) <= LONGEST
