"""Why Numba cannot be used here: one sentence with the remedy."""

import importlib


def numba_problem() -> str | None:
    """Return why Numba cannot compile kernels here, as one sentence, or None if it can."""
    try:
        numba = importlib.import_module("numba")
    except ModuleNotFoundError:
        return (
            "the numba backend needs Numba, which is not installed: pip install numba, "
            "or choose --backend numpy."
        )
    except MemoryError:  # cli.run has a sentence of its own for it
        raise
    except Exception as error:  # a variable with a wrong value, or a NumPy that it does not know
        line = str(error).strip().partition("\n")[0].rstrip(" .:")
        return (
            f"the numba backend could not load Numba ({line}): correct the environment variables "
            "that begin with NUMBA_, or reinstall it, or choose --backend numpy."
        )
    if numba.config.DISABLE_JIT:
        return (
            "the numba backend cannot compile its kernels, because NUMBA_DISABLE_JIT is set: unset "
            "it, or choose --backend numpy."
        )
    return None
