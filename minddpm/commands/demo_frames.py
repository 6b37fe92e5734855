"""What the demo computes, without its page: generators that yield a Frame after each sampling step.

Neither this nor demo_images.py needs Gradio; the page is in demo_page.py.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minddpm import backend, random
from minddpm.backend import Array
from minddpm.commands.known_part import known_mask
from minddpm.diffusion.forward import Model
from minddpm.diffusion.sampling import Step, inpaint, interpolate, invert, nearer_labels
from minddpm.errors import InputError
from minddpm.generate import SAMPLERS, check_batch, conditioned, image_size, sampler_options
from minddpm.pipeline import load
from minddpm.replay import replayed

STEPS = 20  # of a model that was not distilled
COLUMNS = 9  # images from one end of a mixture to the other


class Frame(NamedTuple):
    """x_{t-1} and pred_x0 after a sampling step, float32 [N, H, W, C] on the host."""

    x: np.ndarray
    pred_x0: np.ndarray
    text: str


class End(NamedTuple):
    """One end of a mixture: an image [1, H, W, C], or None for the sample of this seed."""

    image: np.ndarray | None
    label: int | None
    seed: int


class Demo:
    """A model, and the one thread that runs it.

    The CPU kernels keep what they derive from the weights, and their recordings, per thread, but a
    web server asks for each frame in another thread. Requests wait for one another. The weights
    never change here, so a request repeats what an earlier one has recorded.
    """

    def __init__(self, directory: Path):
        self.unet, self.diffusion = load(directory)
        self.unet.eval()
        self.size = image_size(self.unet)
        self.channels: int = self.unet.config["in_channels"]
        own = self.diffusion.sampling
        # A distilled model has few timesteps, and is not to be run at others.
        self.distilled = own is not None and own.steps is not None
        self.sampler = own.sampler if own else "dpm_solver_sde"
        self.steps: int = own.steps if self.distilled else min(STEPS, self.diffusion.T)
        self._derived: dict | None = None  # what the kernels have derived from the weights
        self._count, self._model = 0, replayed(self.unet)
        self._thread = ThreadPoolExecutor(1, "model")
        self._closed = threading.Event()

    def close(self) -> None:
        """Stop at the next sampling step, and compute nothing more."""
        self._closed.set()
        self._thread.shutdown(cancel_futures=True)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, or their numbers; empty for a model without classes."""
        return self.unet.label_names or tuple(map(str, range(self.unet.num_classes)))

    def sample(
        self, count: int, label: int | None, guidance: float, sampler: str, steps: int, seed: int
    ) -> Iterator[Frame]:
        """Draw `count` samples of a class; label None: of all classes in turn."""
        sampler, options = sampler_options(self.diffusion, sampler)
        labels = np.arange(count) % max(1, len(self.classes))
        labels = labels if label is None else np.full(count, label)
        shape = (count, *self.size, self.channels)

        def steps_of(model: Model) -> Iterator[Step]:
            model = conditioned(self.unet, labels, guidance, model)
            return SAMPLERS[sampler](self.diffusion, model, shape, steps, seed=seed, **options)

        return self._frames(count, steps_of)

    def complete(
        self, image: np.ndarray | None, missing: str, count: int, label: int | None,
        guidance: float, steps: int, resample: int, seed: int,
    ) -> Iterator[Frame]:  # fmt: skip
        """Fill in the missing part of an image [1, H, W, C] in `count` ways; None: an empty one.

        label None: of no class. Raises InputError if the known part of the image is empty.
        """
        mask = known_mask(*self.size, missing)
        if image is None or np.ptp(image[:, mask[..., 0] == 1]) == 0:
            raise InputError(
                f"the image is empty outside its missing part ({missing}): draw something there, "
                "or choose another missing part."
            )
        random.check_seed(seed)
        x0, labels = np.repeat(image, count, axis=0), np.full(count, self._number(label))

        def steps_of(model: Model) -> Iterator[Step]:
            model = conditioned(self.unet, labels, guidance, model)
            return inpaint(
                self.diffusion, model, x0, mask, steps, resample=resample, seed=seed,
                spacing="trailing" if self.distilled else "linspace",
            )  # fmt: skip

        return self._frames(count, steps_of)

    def mix(self, first: End, second: End, guidance: float, steps: int) -> Iterator[Frame]:
        """Draw COLUMNS images from one end to the other, all from noise between theirs."""
        shares = np.linspace(0, 1, COLUMNS)
        labels = [np.array([self._number(end.label)]) for end in (first, second)]
        _, options = sampler_options(self.diffusion, "ddim")
        spacing = options["spacing"]

        def noise(model: Model, end: End, label: np.ndarray) -> Array:
            if end.image is None:
                return random.normal((1, *self.size, self.channels), end.seed, random.X_T)
            alone = conditioned(self.unet, label, 1.0, model)
            *_, step = invert(self.diffusion, alone, end.image, steps, spacing=spacing)
            return step.x

        def steps_of(model: Model) -> Iterator[Step]:
            ends = map(partial(noise, model), (first, second), labels)
            model = conditioned(self.unet, nearer_labels(*labels, shares), guidance, model)
            return interpolate(self.diffusion, model, *ends, shares, steps, spacing=spacing)

        return self._frames(COLUMNS, steps_of)

    def _number(self, label: int | None) -> int:
        """Return the label; for None the one beyond the classes, which means no class."""
        return len(self.classes) if label is None else label

    def _replayed(self, count: int) -> Model:
        """Return the model, replayed for batches of `count`; forget those of other sizes.

        A recording holds the memory of its batch.
        """
        check_batch(self.unet, count)
        if count != self._count:
            self._count, self._model = count, replayed(self.unet)
        return self._model

    def _frames(self, count: int, steps_of: Callable[[Model], Iterator[Step]]) -> Iterator[Frame]:
        """Take the steps of a model for `count` images in its thread, and yield them as frames.

        Frames that the caller is too slow for are left out, so that nobody waits for them. Closing
        this generator stops the work at its next step. Raises what steps_of raises.
        """
        frames: queue.SimpleQueue[Frame | None] = queue.SimpleQueue()
        stopped = threading.Event()

        def run() -> None:
            start = time.perf_counter()
            with backend.kernels.constant_weights(self._derived) as self._derived:
                for number, step in enumerate(steps_of(self._replayed(count)), 1):
                    if stopped.is_set() or self._closed.is_set():
                        return
                    text = f"step {number}, t = {step.t}, {time.perf_counter() - start:.2f} s"
                    frames.put(
                        Frame(backend.to_numpy(step.x), backend.to_numpy(step.pred_x0), text)
                    )

        job = self._thread.submit(run)
        job.add_done_callback(lambda _: frames.put(None))
        try:
            while (frame := _newest(frames)) is not None:
                yield frame
        finally:
            stopped.set()
            job.cancel()  # if it has not begun
        if not job.cancelled():
            job.result()


def _newest(frames: "queue.SimpleQueue[Frame | None]") -> Frame | None:
    """Wait for a frame, and return the newest; None, which ends the queue, only after the last."""
    newest = frames.get()
    while newest is not None and not frames.empty():
        following = frames.get()
        if following is None:
            frames.put(None)
            break
        newest = following
    return newest
