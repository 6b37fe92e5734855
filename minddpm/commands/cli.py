"""Functions that all commands share: flags, error messages, exit codes, file names, tables."""

import argparse
import errno
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minddpm import backend, parallel
from minddpm.commands import together
from minddpm.commands.parser import CommandParser
from minddpm.data import ImageDataset, load_mnist
from minddpm.data.class_names import listing
from minddpm.diffusion import GaussianDiffusion
from minddpm.diffusion.scheduler_file import load_diffusion
from minddpm.errors import InputError
from minddpm.generate import image_size
from minddpm.models import UNet2D
from minddpm.storage.atomic import check_writable
from minddpm.training.loop import TrainingDivergedError
from minddpm.training.run_directory import RUN, RunDirectory

BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130
NO_MEMORY = "error: not enough memory{}: choose smaller numbers."


def run(main: Callable[[], int | None], in_ranks: bool = False) -> int:
    """Call main and return the exit code; print an expected failure as one line on stderr.

    in_ranks: whether main divides its work over ranks (parallel.py), if a launcher started several.
    """
    return together.run(lambda: _run(main), in_ranks, BAD_INPUT)


def _run(main: Callable[[], int | None]) -> int:
    for stream in (sys.stdout, sys.stderr):
        # A folder's name may have characters that the terminal cannot show: show their codes.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return main() or 0
    except InputError as error:
        return _print_error(f"error: {error}", BAD_INPUT)
    except BrokenPipeError:
        # The process that reads our output has ended. Python would raise again at exit, when it
        # flushes stdout, so stdout is redirected to the null device.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        if _out_of_memory(error):
            return _print_error(NO_MEMORY.format(""), BAD_INPUT)
        return _print_error(f"error: {error}: correct the path or its permissions.", BAD_INPUT)
    except TrainingDivergedError as error:
        return _print_error(f"error: {error}", FAILED)
    except KeyboardInterrupt:
        return _print_error("interrupted", INTERRUPTED)
    except Exception as error:
        if problem := backend.device_problem(error):
            return _print_error(f"error: {problem}", BAD_INPUT)
        if not _out_of_memory(error):
            raise
        size = f" ({error})" if isinstance(error, MemoryError) and str(error) else ""
        return _print_error(NO_MEMORY.format(size), BAD_INPUT)


def _out_of_memory(error: BaseException | None) -> bool:
    """Return whether an error, or one that it followed, says that there is no memory left."""
    while error is not None:
        # The last is the dynamic linker's sentence, with nothing after it, about a library that is
        # first needed now.
        if (
            isinstance(error, MemoryError)
            or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
            or str(error).endswith("failed to map segment from shared object")
        ):
            return True
        error = error.__cause__ or error.__context__
    return False


def _print_error(sentence: str, code: int) -> int:
    print(sentence, file=sys.stderr)
    return code


def add_backend(parser: Any) -> None:
    """Add the flag --backend; its default is MINDDPM_BACKEND, or None if that is not set."""
    parser.add_argument(
        "--backend",
        default=os.environ.get("MINDDPM_BACKEND") or None,
        help="numpy, numba, cupy, or auto: cupy on a GPU, else numba (default: auto)",
    )


def add_threads(parser: Any) -> None:
    """Add the flag --threads; its default is None."""
    parser.add_argument(
        "--threads",
        type=int,
        help="threads of the numba backend (default: one for each usable core)",
    )


def add_precision(parser: Any) -> None:
    """Add the flag --precision; its default is None."""
    parser.add_argument(
        "--precision",
        choices=backend.PRECISIONS,
        help=f"{', '.join(backend.PRECISIONS)}: to which the tensor cores of --backend cupy round",
    )


def positive(text: str, least: int = 1) -> int:
    """Convert text to an integer of at least 1, or `least`; an argparse type."""
    value = int(text)
    if value < least:
        raise argparse.ArgumentTypeError(f"{text} is below {least}")
    return value


def not_negative(text: str) -> int:
    """Convert text to an integer of at least 0; an argparse type."""
    return positive(text, least=0)


def free_name(path: Path) -> Path:
    """Return the first of path, path-2, path-3, ... that does not exist."""
    candidate, number = path, 1
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return candidate


def new_file(path: Path | None, default: str | Path) -> Path:
    """Return the file to write: path, or if it is None, free_name(default).

    Raises InputError, before any work, if path exists or the file cannot be written.
    """
    refuse_existing(path)
    out = path or free_name(Path(default))
    check_writable(out)
    return out


def refuse_existing(path: Path | None) -> None:
    """Raise InputError if the requested file exists."""
    if path is not None and path.exists():
        raise InputError(f"{path} exists: choose another name or remove it first.")


def add_machine(parser: CommandParser) -> None:
    """Add the flags that `start` reads."""
    add_backend(parser.machine)
    add_threads(parser.machine)
    add_precision(parser.rare)


def add_model(group: Any) -> None:
    """Add the flag --model of a command that loads a model to an argument group."""
    group.add_argument("--model", type=Path, required=True, help="the directory of the model")


def start(args: argparse.Namespace) -> None:
    """Set backend, threads and precision from the flags of `add_machine`."""
    name = "auto" if args.backend is None else args.backend
    set_machine(name, args.threads, args.precision or "float32")


def set_machine(name: str, threads: int | None, precision: str) -> tuple[str, int | None]:
    """Set backend, GPU, threads and precision; return backend and threads as they were chosen."""
    world = parallel.world()
    name = backend.set_backend(name).name
    names = sorted(set(world.gather(np.array([name]))))
    if len(names) > 1:
        raise InputError(
            f"the ranks have different backends ({', '.join(names)}): choose one with --backend."
        )
    backend.set_device(world.local_rank)
    threads = backend.set_threads(threads, world.sharing)
    backend.set_precision(precision)
    return name, threads


def add_data_dir(group: Any) -> None:
    """Add the flag --data-dir of a command that loads MNIST to an argument group."""
    group.add_argument("--data-dir", type=Path, help="folder with the four IDX files of MNIST")


def load_model_and_data(
    directory: Path, data_dir: Path | None, images: int
) -> tuple[UNet2D, GaussianDiffusion, ImageDataset]:
    """Return the model in eval mode, its diffusion process and MNIST's test digits.

    Raises InputError if there are fewer digits than `images`, or the model expects another image
    shape or other classes.
    """
    check_trained_on_mnist(directory)
    unet = UNet2D.from_pretrained(directory).eval()
    diffusion, data = load_diffusion(directory), load_mnist(data_dir, "test")
    expected = (*image_size(unet), unet.config["in_channels"])
    if data.images.shape[1:] != expected:
        raise InputError(
            f"{directory} is a model of images {expected}, but MNIST's are "
            f"{data.images.shape[1:]}: choose a model that was trained on MNIST."
        )
    if None not in (unet.label_names, data.label_names) and unet.label_names != data.label_names:
        raise InputError(
            f"{directory} has the classes {listing(unet.label_names)}, but MNIST has "
            f"{listing(data.label_names)}: choose a model that was trained on MNIST."
        )
    check_images(images, data)
    return unet, diffusion, data


def check_trained_on_mnist(directory: Path) -> None:
    """Raise InputError if the model's run.json names other images. (Others' models have none.)"""
    if not (directory / RUN).is_file():
        return
    options, _ = RunDirectory(directory).read_info()
    other = options.get("image_folder") or options.get("data")
    if other not in (None, "mnist"):
        raise InputError(
            f"{directory} was trained on {other}: choose a model that was trained on MNIST."
        )


def check_images(images: int, data: ImageDataset) -> None:
    """Raise InputError if the data set has fewer than `images` images."""
    if images > len(data):
        raise InputError(
            f"{images} test images requested of {len(data)} ({data.source}): choose fewer."
        )


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; the first column is left-aligned, the others right-aligned."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def peak_memory() -> str:
    """Return the peak memory use of this process, as text."""
    try:
        import resource
    except ImportError:  # on Windows
        return "memory not measured"
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, kilobytes elsewhere
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9:.1f} GB of memory"
