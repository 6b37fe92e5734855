"""A run directory that was written before the rooms were moved still opens and resumes.

run_before_redesign/ holds three steps of a tiny model, made by the code of that time on the numpy
backend; the file beside it is its checkpoint after three more steps by the same code.
"""

import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

import minddpm
from minddpm.data import ImageDataset
from minddpm.training import Trainer, TrainingOptions
from minddpm.training.run_directory import STATE, RunDirectory

RUN = Path(__file__).with_name("run_before_redesign")
AFTERWARDS = Path(__file__).with_name("run_before_redesign_after_6_steps.safetensors")


def resumed(path: Path, steps: int) -> Trainer:
    shutil.copytree(RUN, path)
    unet, diffusion = minddpm.load(path)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1), dtype=np.uint8)
    options = TrainingOptions(
        steps=steps, batch_size=4, lr=1e-2, log_every=1, checkpoint_every=3, loss="hybrid"
    )
    data = ImageDataset(pixels, None, "noise")
    trainer = Trainer(unet, diffusion, data, RunDirectory(path), options)
    assert trainer.resume() == 3
    return trainer


def test_its_process_and_its_weights_come_back(tmp_path):
    shutil.copytree(RUN, tmp_path / "run")
    unet, diffusion = minddpm.load(tmp_path / "run")
    assert (diffusion.T, diffusion.prediction, diffusion.variance) == (
        50,
        "epsilon",
        "learned_range",
    )
    np.testing.assert_array_equal(diffusion.betas, minddpm.schedules.cosine(50))
    averaged = load_file(RUN / STATE)
    for name, parameter in unet.named_parameters():
        np.testing.assert_array_equal(parameter.data, averaged[f"ema/{name}"])


def test_its_checkpoint_is_read_bit_for_bit(tmp_path):
    trainer = resumed(tmp_path / "run", 6)
    trainer.save()
    before, again = load_file(RUN / STATE), load_file(tmp_path / "run" / STATE)
    assert before.keys() == again.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(again[name], array)


def test_three_more_steps_are_those_of_the_older_code(tmp_path):
    """To rounding: matrix products are summed in another order on another machine."""
    assert resumed(tmp_path / "run", 6).train(progress=False)
    expected, now = load_file(AFTERWARDS), load_file(tmp_path / "run" / STATE)
    assert expected.keys() == now.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(now[name], array, rtol=1e-4, atol=1e-6, err_msg=name)
