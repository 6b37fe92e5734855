"""What all commands share: one clear sentence for bad input, exit codes, free names, tables."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from minddpm import backend
from minddpm.data import ImageDataset, load_mnist
from minddpm.diffusion import GaussianDiffusion
from minddpm.diffusion.forward import Model
from minddpm.diffusion.scheduler_file import load_diffusion
from minddpm.errors import InputError
from minddpm.generate import conditioned, image_size
from minddpm.models import UNet2D
from minddpm.storage.atomic import check_writable
from minddpm.training.loop import TrainingDivergedError

BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130


def run(main: Callable[[], int | None]) -> int:
    """main's exit code; an expected failure is one line on stderr instead of a traceback."""
    try:
        return main() or 0
    except InputError as error:
        return _say(f"error: {error}", BAD_INPUT)
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain once more when it flushes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        return _say(f"error: {error}: correct the path, or its permissions.", BAD_INPUT)
    except TrainingDivergedError as error:
        return _say(f"error: {error}", FAILED)
    except KeyboardInterrupt:
        return _say("interrupted", INTERRUPTED)
    except Exception as error:
        if problem := backend.device_problem(error):
            return _say(f"error: {problem}", BAD_INPUT)
        if not isinstance(error, MemoryError):
            raise
        size = f" ({error})" if str(error) else ""
        return _say(f"error: not enough memory{size}: choose smaller numbers.", BAD_INPUT)


def _say(sentence: str, code: int) -> int:
    print(sentence, file=sys.stderr)
    return code


def add_backend(parser: argparse.ArgumentParser) -> None:
    """The flag --backend; None where neither it nor MINDDPM_BACKEND is given."""
    parser.add_argument(
        "--backend",
        default=os.environ.get("MINDDPM_BACKEND"),
        help="numpy, numba, cupy, or auto: cupy where a GPU answers, else numba (default: auto)",
    )


def add_threads(parser: argparse.ArgumentParser) -> None:
    """The flag --threads; None where it is not given."""
    parser.add_argument(
        "--threads",
        type=int,
        help="of the numba backend (default: the cores that this process may use)",
    )


def add_precision(parser: argparse.ArgumentParser) -> None:
    """The flag --precision; None where it is not given."""
    parser.add_argument(
        "--precision",
        choices=backend.PRECISIONS,
        help="what the tensor cores of a GPU round to, with --backend cupy (default: float32)",
    )


def positive(text: str) -> int:
    """An argparse type: an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return value


def free_name(path: Path) -> Path:
    """path, or path-2, path-3, ... where that is taken: nothing is overwritten unasked."""
    candidate, number = path, 1
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return candidate


def new_file(path: Path | None, default: str | Path) -> Path:
    """The file to write: path, or a free name like the default; nothing is overwritten.

    Raises InputError, before any work, if it exists or could not be written.
    """
    refuse_existing(path)
    out = path or free_name(Path(default))
    check_writable(out)
    return out


def refuse_existing(path: Path | None) -> None:
    """Raise InputError if a file that was asked for is there already."""
    if path is not None and path.exists():
        raise InputError(f"{path} exists: choose another name, or remove it first.")


def add_machine(parser: argparse.ArgumentParser) -> None:
    """The flags that `start` reads."""
    add_backend(parser)
    add_threads(parser)
    add_precision(parser)


def add_model(parser: argparse.ArgumentParser) -> None:
    """The flags of a command that does something with a model."""
    add_machine(parser)
    parser.add_argument("--model", type=Path, required=True, help="the directory of the model")


def start(args: argparse.Namespace) -> None:
    """Choose backend, threads and precision by the flags of `add_machine`."""
    backend.set_backend(args.backend or "auto")
    backend.set_threads(args.threads)
    backend.set_precision(args.precision or "float32")


def add_model_and_data(parser: argparse.ArgumentParser) -> None:
    """The flags of a command that does something with a model and test digits."""
    add_model(parser)
    parser.add_argument("--data-dir", type=Path, help="folder with the four IDX files of MNIST")


def load_model_and_data(
    directory: Path, data_dir: Path | None, images: int
) -> tuple[UNet2D, GaussianDiffusion, ImageDataset]:
    """The model in eval mode, its diffusion process, and MNIST's test digits.

    Raises InputError if there are fewer digits than `images`, or the model's are no such pictures.
    """
    unet = UNet2D.from_pretrained(directory).eval()
    diffusion, data = load_diffusion(directory), load_mnist(data_dir, "test")
    wanted = (*image_size(unet), unet.config["in_channels"])
    if data.images.shape[1:] != wanted:
        raise InputError(
            f"{directory} is a model of pictures {wanted}, and MNIST's are "
            f"{data.images.shape[1:]}: choose a model that was trained on MNIST."
        )
    check_images(images, data)
    return unet, diffusion, data


def check_images(images: int, data: ImageDataset) -> None:
    """Raise InputError if there are fewer."""
    if images > len(data):
        raise InputError(
            f"{images} test images, and there are {len(data)} ({data.source}): choose fewer."
        )


def conditioned_on(unet: UNet2D, labels: np.ndarray) -> Model:
    """The model, told these labels if it is class-conditional."""
    return conditioned(unet, labels if unet.num_classes else None)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column to the left, numbers to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def peak_memory() -> str:
    """The most memory that this process has used, as text for a person."""
    try:
        import resource
    except ImportError:  # Windows
        return "memory not measured"
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9:.1f} GB of memory"
