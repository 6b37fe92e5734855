"""The two kinds of failure that minddpm reports on purpose."""


class InputError(ValueError):
    """Something the user gave is wrong; the message is one sentence and names the remedy.

    The commands in ``examples/`` print it without a traceback and exit with status 2.
    """


class GraphError(RuntimeError):
    """The autodiff graph was used in a way that would give a wrong gradient."""
