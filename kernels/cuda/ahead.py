"""Compile the kernels of a computation before it runs: several files at a time.

CUDA's compiler takes seconds for one file, and a first run would compile file after file. Which
files with which options a model needs depends on its shapes, so its computation runs once with
launches that are only noted, and each file is compiled from then on. CuPy keeps the compiled code
in a folder (~/.cupy/kernel_cache), where later processes find it.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, NamedTuple

from minddpm.kernels.cuda.launch import compile_module, cupy, is_noting, noted
from minddpm.progress_bar import tqdm

DELAY = 1  # second until the progress is shown: compiled files load faster


class Compiled(NamedTuple):
    """The number of modules, and the first line of the error of each that does not compile."""

    modules: int
    problems: list[str]


def compile_ahead(run: Callable[[], Any]) -> Compiled:
    """Compile all modules whose kernels run() launches, and show the progress.

    run: called once; no kernel runs in it, so its results are undefined. A module that does not
    compile raises no error here, but when it is first used. Within the run of another call this one
    only calls run(): the other one compiles.
    """
    if is_noting():
        run()
        return Compiled(0, [])
    device, problems, futures = cupy().cuda.Device(), [], {}
    # The compiler runs without Python's lock, so that threads are enough.
    with ThreadPoolExecutor(os.cpu_count(), initializer=device.use) as pool:

        def begin(*module: Any) -> None:
            futures[pool.submit(compile_module, *module)] = module

        with noted(begin):
            run()
        done = as_completed(futures)
        for future in tqdm(done, "compiling CUDA kernels", len(futures), unit="file", delay=DELAY):
            if error := future.exception():
                name = " ".join((futures[future][0], *futures[future][1]))
                problems.append(f"{name}: {error}".strip().splitlines()[0])
    return Compiled(len(futures), problems)
