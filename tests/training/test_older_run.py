"""A run directory that an older version wrote still opens and resumes.

run_before_redesign/ holds three steps of a tiny model, trained by the older version on the numpy
backend; the file beside it is the checkpoint after three more steps by that version.
"""

import shutil
from pathlib import Path

import numpy as np
from builders import draw, host, noise_images
from safetensors.numpy import load_file

import minddpm
from minddpm.training import Trainer, TrainingOptions
from minddpm.training.run_directory import STATE, RunDirectory

RUN = Path(__file__).with_name("run_before_redesign")
AFTERWARDS = Path(__file__).with_name("run_before_redesign_after_6_steps.safetensors")


def resumed(path: Path, steps: int) -> Trainer:
    shutil.copytree(RUN, path)
    unet, diffusion = minddpm.load(path)
    options = TrainingOptions(
        steps=steps, batch_size=4, lr=1e-2, log_every=1, checkpoint_every=3, loss="hybrid"
    )
    trainer = Trainer(unet, diffusion, noise_images(20), RunDirectory(path), options)
    assert trainer.resume() == 3
    return trainer


def test_its_process_and_its_weights_come_back(tmp_path):
    shutil.copytree(RUN, tmp_path / "run")
    unet, diffusion = minddpm.load(tmp_path / "run")
    kind = diffusion.T, diffusion.prediction, diffusion.variance
    assert kind == (50, "epsilon", "learned_range")
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
    """Equal to rounding: another machine sums matrix products in another order.

    The outputs are compared, not the weights: the bias before a group norm of one channel a group
    has no effect, and Adam turns the rounding of its gradient, which is 0, into steps of size lr.
    """
    assert resumed(tmp_path / "run", 6).train(progress=False)
    expected, now = load_file(AFTERWARDS), load_file(tmp_path / "run" / STATE)
    assert expected.keys() == now.keys()
    unet, _ = minddpm.load(RUN)
    x, t = draw(0, (2, 8, 8, 1))[0], np.array([3, 40])
    for group in ("raw", "ema"):
        one, other = (output(unet, tensors, group, x, t) for tensors in (expected, now))
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4 * np.abs(one).max())


def output(unet, tensors, group, x, t):
    """Return the model's output with the weights of this group of a checkpoint."""
    for name, parameter in unet.named_parameters():
        parameter.data = tensors[f"{group}/{name}"]
    return host(unet(x, t))
