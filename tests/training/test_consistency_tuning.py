"""Tuning a consistency model: its stages and targets, resuming, what is written and refused."""

import numpy as np
import pytest
from builders import TINIEST, WIDE, host, noise_images, random_unet, read_files

import minddpm
from minddpm import GaussianDiffusion, random
from minddpm.diffusion.consistency import less_noise
from minddpm.diffusion.schedules import cosine
from minddpm.pipeline import Pipeline
from minddpm.training.consistency import ConsistencyOptions, ConsistencyTuner
from minddpm.training.run_directory import LOSS, RUN, RunDirectory, read_loss
from refusals import refused

T = 40
FEW = {"batch_size": 4, "steps_per_stage": 2, "log_every": 1, "checkpoint_every": 5}


def tuner(path, config=TINIEST, prediction="v", variance="fixed_small", labels=None, **options):
    """Return a ConsistencyTuner of a random teacher: 12 steps in six stages."""
    teacher = Pipeline(
        random_unet(config, scale=0.2), GaussianDiffusion(cosine(T), prediction, variance)
    )
    data = noise_images(20, labels=labels)
    chosen = ConsistencyOptions(**{**FEW, **options})
    loop = ConsistencyTuner(teacher, data, RunDirectory(path), chosen)
    if not (path / RUN).exists():
        loop.run.check_new(0)
        loop.run.write_info({}, data.identity())
    return loop


@pytest.mark.parametrize("labels", [None, np.arange(20) % 3])
def test_the_target_is_what_the_model_sees_with_less_noise(any_backend, tmp_path, labels):
    """At a step of the last stage, with the weights of that step."""
    config = TINIEST if labels is None else {**TINIEST, "num_class_embeds": 4}
    loop = tuner(tmp_path / "run", config, labels=labels, class_conditional=labels is not None)
    for _ in range(10):
        loop.train_step()
    batch, d = loop._batch(10), loop.diffusion
    x0, t, classes, _ = super(type(loop), loop)._batch(10)
    noise = random.normal(x0.shape, loop.options.seed, random.NOISE, 10)
    r = less_noise(d.alphas_cumprod, t, 5)
    assert (r >= 0).any()
    given = {} if classes is None else {"class_labels": classes}
    np.testing.assert_allclose(host(batch.x_t), host(d.q_sample(x0, t, noise)), atol=1e-6)
    for i in range(len(t)):
        wanted = host(x0)[i]
        if r[i] >= 0:
            one = slice(i, i + 1)
            x_r = d.q_sample(x0[one], r[one], noise[one])
            model = {name: value[one] for name, value in given.items()}
            v = loop.unet(x_r, r[one], **model)
            a, s = np.sqrt(d.alphas_cumprod[r[i]]), np.sqrt(1 - d.alphas_cumprod[r[i]])
            wanted = (a * host(x_r) - s * host(v))[0]
        np.testing.assert_allclose(host(batch.x0)[i], wanted, atol=1e-4)


def test_the_rate_falls_from_the_first_step(tmp_path):
    loop = tuner(tmp_path / "run", lr=1e-3)
    assert (loop.options.steps, loop.options.stages) == (12, 6)
    assert loop.train(progress=False)
    rates = [row["lr"] for row in read_loss(tmp_path / "run" / LOSS)]
    np.testing.assert_allclose(rates, 1e-3 * np.arange(12, 0, -1) / 12, rtol=1e-5)


def test_resuming_is_bit_exact(any_backend, tmp_path):
    assert tuner(tmp_path / "reference").train(progress=False)
    for stop in (3, 6):
        out = tmp_path / f"stopped after {stop}"
        first = tuner(out)
        for _ in range(stop):
            first.train_step()
        first.save()
        del first  # it locks its run directory
        second = tuner(out)
        assert second.resume() == stop
        assert second.train(progress=False)
        files, whole = (read_files(path) for path in (out, tmp_path / "reference"))
        for other in (files, whole):  # the rows of the first steps were not written
            other.pop(next(path for path in other if path.name == LOSS))
        assert files == whole


def test_replayed_steps_are_bit_equal(tmp_path):
    minddpm.set_backend("numba")
    replayed, eager = tuner(tmp_path / "a", WIDE), tuner(tmp_path / "b", WIDE)
    eager.replayed = lambda x, t: eager.frozen(x, t)
    eager.replay = lambda function, step, *inputs: function(step, *inputs)
    eager.model = eager.unet
    for _ in range(12):
        losses = [host(loop.train_step().losses) for loop in (replayed, eager)]
        np.testing.assert_array_equal(*losses)


def test_what_a_finished_run_samples_with(tmp_path):
    loop = tuner(tmp_path / "run", sampling_steps=3)
    assert loop.train(progress=False)
    model = minddpm.load(tmp_path / "run")
    assert model.diffusion.sampling == loop.diffusion.sampling
    assert (model.diffusion.prediction, model.diffusion.clip_x0) == ("v", False)
    with loop.ema.applied():
        *_, last = minddpm.samplers.consistency(loop.diffusion, loop.unet, (3, 8, 8, 1), 3)
    np.testing.assert_allclose(minddpm.generate(model, 3), host(last.x), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sampling_steps": 41}, ("41 sampling steps", "T = 40")),
        ({"sampling_steps": 40}, ("40 sampling steps", "choose fewer")),
        ({"sampling_steps": 25}, ("25 sampling steps", "choose fewer")),
        ({"sampling_steps": 0}, ("sampling_steps=0",)),
        ({"steps_per_stage": 0}, ("steps_per_stage=0",)),
        ({"variance": "learned_range", "config": {**TINIEST, "out_channels": 2}}, ("learned",)),
    ],
)
def test_what_is_refused(tmp_path, options, words):
    with refused(*words):
        tuner(tmp_path / "run", **options)
