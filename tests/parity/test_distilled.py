"""Models of few steps as pipelines: diffusers' DDIM and LCM walk their timesteps."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from builders import TINY, draw  # noqa: E402
from torch_arrays import nchw, nhwc  # noqa: E402

from minddpm import GaussianDiffusion, load, samplers  # noqa: E402
from minddpm.diffusion.distillation import two_steps  # noqa: E402
from minddpm.diffusion.reverse import Sampling  # noqa: E402
from minddpm.diffusion.sampling import timesteps  # noqa: E402
from minddpm.diffusion.scheduler_file import few_steps, scheduler_config  # noqa: E402
from minddpm.diffusion.schedules import cosine, linear  # noqa: E402
from minddpm.generate import generate  # noqa: E402
from minddpm.pipeline import save_pipeline  # noqa: E402

T = 1000


def distilled(steps, schedule=cosine):
    """Return the process of a model that was distilled into these steps."""
    d = GaussianDiffusion(schedule(T), "v", clip_x0=False)
    d.sampling = few_steps(steps)
    return d


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
@pytest.mark.parametrize("schedule", [cosine, linear])
def test_their_scheduler_visits_the_students_timesteps(steps, schedule, caplog):
    d = distilled(steps, schedule)
    diffusers.utils.logging.enable_propagation()  # to caplog
    scheduler = diffusers.DDIMScheduler.from_config(json.loads(json.dumps(scheduler_config(d))))
    diffusers.utils.logging.disable_propagation()
    assert caplog.text == ""  # it knows every key
    assert scheduler.config["_sampling_steps"] == steps
    scheduler.set_timesteps(steps)
    visited = timesteps(T, steps, "trailing")
    assert scheduler.timesteps.tolist() == visited[::-1].tolist()
    ac = np.append(d.alphas_cumprod, 1.0)
    (x_t, output), (_, ends) = draw(0, *[(1, 4, 4, 1)] * 2), two_steps(T, steps, visited)
    for t, end in zip(visited, ends, strict=True):
        theirs = nhwc(scheduler.step(nchw(output), int(t), nchw(x_t)).prev_sample)
        x0 = np.sqrt(ac[t]) * x_t - np.sqrt(1 - ac[t]) * output
        eps = np.sqrt(1 - ac[t]) * x_t + np.sqrt(ac[t]) * output
        ours = np.sqrt(ac[end]) * x0 + np.sqrt(1 - ac[end]) * eps
        np.testing.assert_allclose(theirs, ours, atol=1e-4)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_their_pipeline_draws_our_samples(tmp_path, model_pair, steps, monkeypatch):
    pair, d = model_pair(**TINY), distilled(steps)
    save_pipeline(pair.ours, d, tmp_path)
    (x_T,) = draw(0, (2, 8, 8, 1))
    name = "diffusers.pipelines.ddim.pipeline_ddim.randn_tensor"
    monkeypatch.setattr(name, lambda shape, **_: nchw(x_T))
    pipeline = diffusers.DDIMPipeline.from_pretrained(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(batch_size=2, num_inference_steps=steps, output_type="np").images
    *_, last = samplers.ddim(d, pair.ours, x_T.shape, steps, x_T=x_T, spacing="trailing")
    np.testing.assert_allclose((last.x / 2 + 0.5).clip(0, 1), theirs, atol=1e-3)
    assert theirs.std() > 0.05

    model = load(tmp_path)
    assert model.diffusion.sampling == few_steps(steps)
    *_, last = samplers.ddim(d, pair.ours, x_T.shape, steps, spacing="trailing")
    np.testing.assert_allclose(generate(model, 2), last.x, atol=1e-5)


def consistent(steps, schedule=cosine):
    """Return the process of a consistency model of these steps."""
    d = GaussianDiffusion(schedule(T), "v", clip_x0=False)
    d.sampling = Sampling("consistency", {}, steps)
    return d


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("schedule", [cosine, linear])
def test_their_lcm_scheduler_is_our_consistency_sampler(steps, schedule, monkeypatch, caplog):
    d = consistent(steps, schedule)
    diffusers.utils.logging.enable_propagation()
    scheduler = diffusers.LCMScheduler.from_config(json.loads(json.dumps(scheduler_config(d))))
    diffusers.utils.logging.disable_propagation()
    assert caplog.text == ""
    scheduler.set_timesteps(steps)
    x, z = draw(0, *[(1, 4, 4, 1)] * 2)
    ours = list(
        samplers.consistency(d, lambda x, t: 0.3 * x, x.shape, steps, x_T=x, noise=lambda i: z)
    )
    assert scheduler.timesteps.tolist() == [step.t for step in ours]
    name = "diffusers.schedulers.scheduling_lcm.randn_tensor"
    monkeypatch.setattr(name, lambda shape, **_: nchw(z))
    for step in ours:
        theirs = nhwc(scheduler.step(nchw(0.3 * x), step.t, nchw(x)).prev_sample)
        np.testing.assert_allclose(theirs, step.x, atol=1e-5)
        x = step.x


@pytest.mark.parametrize("steps", [1, 2])
def test_their_pipeline_draws_the_samples_of_a_consistency_model(
    tmp_path, model_pair, steps, monkeypatch
):
    pair, d = model_pair(**TINY), consistent(steps)
    save_pipeline(pair.ours, d, tmp_path)
    x_T, z = draw(0, *[(2, 8, 8, 1)] * 2)
    for module, array in (("pipelines.ddpm.pipeline_ddpm", x_T), ("schedulers.scheduling_lcm", z)):
        monkeypatch.setattr(f"diffusers.{module}.randn_tensor", lambda *_, a=array, **__: nchw(a))
    pipeline = diffusers.DDPMPipeline.from_pretrained(tmp_path)
    assert type(pipeline.scheduler) is diffusers.LCMScheduler
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(batch_size=2, num_inference_steps=steps, output_type="np").images
    *_, last = samplers.consistency(d, pair.ours, x_T.shape, steps, x_T=x_T, noise=lambda i: z)
    np.testing.assert_allclose((last.x / 2 + 0.5).clip(0, 1), theirs, atol=1e-3)
    assert theirs.std() > 0.05
    assert load(tmp_path).diffusion.sampling == d.sampling
