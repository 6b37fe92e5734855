"""A batch computed in parts: the gradients, and so the training, are those of the whole batch."""

import numpy as np
import pytest
from builders import TINY, WIDE, make_trainer, noise_images, random_unet
from stepping import CASES, IN_PART, check_stages, trainer

from minddpm import backend
from minddpm.training.options import TrainingOptions
from refusals import refused

# Odd sizes, so that a part's stream of noise begins within a block of four.
ODD = {
    **TINY, "sample_size": 5, "block_out_channels": (3,), "norm_num_groups": 3,
    "down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",),
}  # fmt: skip


def losses(made, steps=4):
    """Return the losses of each step, float32 [steps, N]."""
    return np.stack([backend.to_numpy(made.train_step().losses) for _ in range(steps)])


@pytest.mark.usefixtures("numba_with_its_threads")
@pytest.mark.parametrize("case", [*CASES, *IN_PART])
def test_parts_of_a_batch_train_as_the_whole_batch(tmp_path, case):
    """With dropout, labels and importance sampling; the third step and those after it replay."""
    whole = trainer(WIDE, tmp_path / "whole", case, batch=8)
    parts = trainer(WIDE, tmp_path / "parts", case, batch=8, accumulate=4)
    np.testing.assert_allclose(losses(parts), losses(whole), rtol=1e-5)
    check_stages(parts, case)


def test_a_part_has_the_noise_of_its_images(any_backend, tmp_path):
    def run(parts):
        unet = random_unet(ODD, scale=0.1, dropout=0.3).train()
        data = noise_images(9, size=5)
        return make_trainer(tmp_path / str(parts), unet, data, batch_size=6, accumulate=parts)

    np.testing.assert_allclose(losses(run(3)), losses(run(1)), rtol=1e-5)


def test_flipped_images_are_the_same(tmp_path):
    def run(parts):
        options = {"batch_size": 6, "accumulate": parts, "flip": True}
        return make_trainer(
            tmp_path / str(parts), random_unet(scale=0.1), noise_images(9), **options
        )

    np.testing.assert_allclose(losses(run(2)), losses(run(1)), rtol=1e-5)


@pytest.mark.usefixtures("numba_with_its_threads")
def test_parts_need_less_memory(tmp_path):
    """The memory of a recorded step: an eighth of the batch at a time, and the same weights."""

    def recorded(parts):
        made = trainer(WIDE, tmp_path / str(parts), batch=32, accumulate=parts)
        losses(made, steps=2)
        (step,) = made.replay._records.of_key.values()
        return step._record._memory.nbytes

    assert recorded(8) < 0.4 * recorded(1)


def test_parts_that_are_not_equal(tmp_path):
    with refused("8 images", "3 equal parts", "--accumulate 3"):
        trainer(WIDE, tmp_path, batch=8, accumulate=3)
    with refused("accumulate=0", "at least 1"):
        TrainingOptions(accumulate=0)
