"""Training a student of few steps: stages, resuming in any of them, what is written and refused."""

import os
import signal

import numpy as np
import pytest
from builders import TINIEST, WIDE, host, noise_images, random_unet, read_files

import minddpm
from minddpm import GaussianDiffusion, backend, samplers
from minddpm.diffusion.schedules import cosine
from minddpm.pipeline import Pipeline
from minddpm.training.distillation import DistillationOptions, Distiller
from minddpm.training.run_directory import LOSS, RUN, RunDirectory, read_loss
from refusals import refused

T = 40
FEW = {"batch_size": 4, "steps_per_stage": 4, "log_every": 2, "checkpoint_every": 3, "lr": 1e-3}


def distiller(path, config=TINIEST, prediction="v", variance="fixed_small", labels=None, **options):
    """Return a Distiller from 8 steps to 1, three stages, of a random teacher."""
    process = GaussianDiffusion(cosine(T), prediction, variance)
    teacher = Pipeline(random_unet(config, scale=0.2), process)
    chosen = DistillationOptions(**{"teacher_steps": 8, "sampling_steps": 1, **FEW, **options})
    data = noise_images(20, labels=labels)
    loop = Distiller(teacher, data, RunDirectory(path), chosen)
    if not (path / RUN).exists():
        loop.run.check_new(0)
        loop.run.write_info({}, data.identity())
    return loop


def interrupt_after(loop, step):
    """Let Ctrl-C arrive during a step of the loop."""
    train_step = loop.train_step

    def interrupted():
        if loop.step == step - 1:
            os.kill(os.getpid(), signal.SIGINT)
        return train_step()

    loop.train_step = interrupted


def test_resuming_is_bit_exact_in_any_stage(any_backend, tmp_path):
    assert distiller(tmp_path / "reference").train(progress=False)
    for stop in (3, 4, 9):  # within a stage, between two, in the last
        out = tmp_path / f"stopped after {stop}"
        first = distiller(out)
        interrupt_after(first, stop)
        assert not first.train(progress=False)
        del first  # it locks its run directory
        second = distiller(out)
        assert second.resume() == stop
        assert second.train(progress=False)
        files, whole = read_files(out), read_files(tmp_path / "reference")
        for other in (files, whole):  # Ctrl-C adds a row to the log
            other.pop(next(path for path in other if path.name == LOSS))
        assert files == whole


def test_the_stages(tmp_path):
    """12 steps: from 8 to 4, to 2, to 1; the rate falls in each, and t are those of the student."""
    loop = distiller(tmp_path / "run", log_every=1)
    options, seen = loop.options, []
    assert (options.steps, options.stages) == (12, 3)
    assert [options.student_steps(step) for step in (0, 3, 4, 11)] == [4, 4, 2, 1]
    step = loop.train_step
    loop.train_step = lambda: seen.append(step()) or seen[-1]
    assert loop.train(progress=False)
    for stage, t in enumerate(([9, 19, 29, 39], [19, 39], [39])):
        drawn = np.concatenate([record.t for record in seen[4 * stage : 4 * stage + 4]])
        assert sorted(set(drawn.tolist())) == t
    rates = [row["lr"] for row in read_loss(tmp_path / "run" / LOSS)]
    np.testing.assert_allclose(rates, [1e-3, 7.5e-4, 5e-4, 2.5e-4] * 3)


@pytest.mark.parametrize("optimizer", ["adam", "muon"])  # muon has the weights in another order
def test_the_student_becomes_the_teacher(tmp_path, optimizer):
    loop = distiller(tmp_path / "run", WIDE, optimizer=optimizer)
    first = [host(p).copy() for p in loop.teacher.parameters()]
    for _ in range(4):
        loop.train_step()
    with loop.ema.applied():
        averaged = [host(p).copy() for p in loop.unet.parameters()]
    for p, weights in zip(loop.teacher.parameters(), first, strict=True):
        np.testing.assert_array_equal(host(p), weights)
    loop.train_step()
    for p, weights, before in zip(loop.teacher.parameters(), averaged, first, strict=True):
        np.testing.assert_array_equal(host(p), weights)
        assert (weights != before).any()


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_replayed_steps_are_bit_equal(tmp_path, prediction, monkeypatch):
    """With channels that the CPU replays, in every stage."""
    minddpm.set_backend("numba")
    replayed = distiller(tmp_path / "a", WIDE, prediction)
    eager = distiller(tmp_path / "b", WIDE, prediction)
    eager.replayed_teacher = lambda x, t: eager.teacher(x, t)
    eager.replay = lambda function, step, *inputs: function(step, *inputs)
    eager.model = eager.unet
    for _ in range(12):
        losses = [host(loop.train_step().losses) for loop in (replayed, eager)]
        np.testing.assert_array_equal(*losses)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_the_guided_model_is_the_first_teacher(any_backend, tmp_path, guidance):
    """A student of one step from a teacher of two: its target is the teacher's guided sample."""
    labels = np.arange(20) % 3
    options = {"teacher_steps": 2, "guidance": guidance, "class_conditional": True}
    loop = distiller(tmp_path / "run", {**TINIEST, "num_class_embeds": 4}, labels=labels, **options)
    batch = loop._batch(0)
    model = minddpm.diffusion.sampling.Guided(loop.teacher, batch.labels, guidance)
    *_, last = samplers.ddim(
        loop.first_process, model, batch.x_t.shape, 2, x_T=batch.x_t, spacing="trailing"
    )
    np.testing.assert_allclose(host(batch.x0), host(last.x), atol=1e-4)
    assert set(host(batch.labels).tolist()) <= {0, 1, 2}


def test_what_a_finished_run_samples_with(tmp_path):
    loop = distiller(tmp_path / "run", sampling_steps=2)
    assert loop.train(progress=False)
    unet, diffusion = minddpm.load(tmp_path / "run")
    assert (diffusion.prediction, diffusion.clip_x0) == ("v", False)
    with loop.ema.applied():
        own = minddpm.generate((loop.unet, loop.diffusion), 3)
        *_, last = samplers.ddim(
            loop.diffusion, loop.unet, own.shape, 2, seed=0, spacing="trailing"
        )
    np.testing.assert_array_equal(minddpm.generate((unet, diffusion), 3), own)
    np.testing.assert_allclose(backend.to_numpy(last.x), own, atol=1e-5)
    assert (minddpm.generate((unet, diffusion), 3, steps=1) != own).any()


def test_the_loss_falls(tmp_path):
    loop = distiller(tmp_path / "run", sampling_steps=4, steps_per_stage=60, lr=3e-3)
    losses = [loop.train_step().losses.mean() for _ in range(60)]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


def test_no_model_is_written_before_the_last_stage(tmp_path):
    loop = distiller(tmp_path / "run")
    interrupt_after(loop, 8)
    assert not loop.train(progress=False)
    assert not (tmp_path / "run" / "unet").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"teacher_steps": 12}, ("12 steps", "--teacher-steps")),
        ({"teacher_steps": 4, "sampling_steps": 4}, ("4 steps", "--teacher-steps")),
        ({"teacher_steps": 6, "sampling_steps": 3}, ("T = 40", "divisor")),
        ({"teacher_steps": 64}, ("64", "T = 40")),
        ({"steps_per_stage": 0}, ("steps_per_stage=0",)),
        ({"variance": "learned_range", "config": {**TINIEST, "out_channels": 2}}, ("learned",)),
    ],
)
def test_what_is_refused(tmp_path, options, words):
    with refused(*words):
        distiller(tmp_path / "run", **options)
