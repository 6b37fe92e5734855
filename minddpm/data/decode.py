"""Decode image files, in worker processes if there are many, into one file of pixels."""

import os
import signal
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from minddpm.data.fit import Size, fit_image
from minddpm.data.image_files import ImageFiles, open_file
from minddpm.data.pixel_depth import Depths
from minddpm.errors import InputError
from minddpm.progress_bar import tqdm

FEW = 500  # files that are decoded in this process: to start others takes longer
PART = 50  # files of one task of a worker process


class Pixels(NamedTuple):
    """What was decoded: the names of the readable files, and their number of channels."""

    names: list[str]
    channels: int


class _Decoded(NamedTuple):
    """Images of some files (None: deeper than 8 bits), what is wrong with others, colour or not."""

    images: dict[str, np.ndarray | None]
    errors: dict[str, str]
    depths: Depths
    colour: bool


def decode(files: ImageFiles, size: Size, channels: int | None, out: BinaryIO) -> Pixels:
    """Write the pixels of all readable files, uint8 [n, H, W, C], in the order of the names.

    channels: None for those of the images: 3 is then written, and the returned number is 1 if
    every pixel of every image is grey. Values of more than 8 bits are scaled by the rules in
    pixel_depth.py. Unreadable files are named on stderr, and so is the scale.
    Raises InputError if there is no readable image.
    """
    place, stored = files.place, channels or 3
    depths, names, deep, colour = Depths(), [], {}, False
    with _workers(len(files.names)) as run:
        for part in run(partial(_decode, place, size, stored), _parts(files.names), "images"):
            depths.merge(part.depths)
            colour |= part.colour
            for name, error in part.errors.items():
                tqdm.write(f"{place / name}: not a readable image, skipped ({error})", sys.stderr)
            for name, image in part.images.items():
                if image is None:
                    deep[name] = len(names)
                    image = np.zeros((*size, stored), np.uint8)
                names.append(name)
                out.write(image)
        for part in run(
            partial(_scale, place, size, stored, depths), _parts(list(deep)), "scaling"
        ):
            for name, image in part.items():
                out.seek(deep[name] * image.nbytes)
                out.write(image)
    if not names:
        raise InputError(
            f"{place} holds no readable image: give a folder with PNG, JPEG or other images."
        )
    for sentence in depths.notes():
        print(f"{place}: {sentence}", file=sys.stderr)
    return Pixels(names, channels or (3 if colour else 1))


def _parts(names: list[str]) -> list[list[str]]:
    return [names[i : i + PART] for i in range(0, len(names), PART)]


@contextmanager
def _workers(count: int) -> Iterator:
    """Yield run(function, parts, what), which maps in the order of the parts, with a bar."""

    def bar(results: Iterable, parts: list[list[str]], what: str) -> Iterator:
        # None: no bar in a log file.
        with tqdm(total=sum(map(len, parts)), desc=what, disable=None if parts else True) as bar:
            for part, result in zip(parts, results, strict=True):
                yield result
                bar.update(len(part))

    if count <= FEW:
        yield lambda function, parts, what: bar(map(function, parts), parts, what)
        return
    # spawn: a forked process would inherit locks of the threads that the kernels run in.
    pool = ProcessPoolExecutor(_cores(), get_context("spawn"), _ignore_interrupt)
    try:
        yield lambda function, parts, what: bar(pool.map(function, parts), parts, what)
    except BrokenProcessPool as error:
        raise InputError(
            "a process that decodes images ended unexpectedly: free some memory, and call minddpm "
            'under if __name__ == "__main__" in a program of your own.'
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _ignore_interrupt() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one handles it


def _decode(place: Path, size: Size, channels: int, names: list[str]) -> _Decoded:
    images, errors, depths, colour = {}, {}, Depths(), False
    for name in names:
        try:
            image = depths.open(open_file(place, name))
            images[name] = None if image is None else fit_image(image, size, channels)
            colour = colour or _is_colour(images[name])
        except (InputError, MemoryError):
            raise
        except Exception as error:  # Pillow's readers raise many kinds on a damaged file
            errors[name] = str(error)
    return _Decoded(images, errors, depths, colour)


def _scale(
    place: Path, size: Size, channels: int, depths: Depths, names: list[str]
) -> dict[str, np.ndarray]:
    return {
        name: fit_image(depths.scaled(open_file(place, name)), size, channels) for name in names
    }


def _is_colour(image: np.ndarray | None) -> bool:
    """Return whether a pixel has unequal channels; grey values of more than 8 bits have not."""
    return image is not None and bool((image[..., :1] != image[..., 1:]).any())
