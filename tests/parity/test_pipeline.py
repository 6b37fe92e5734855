"""Run directories as diffusers pipelines, and our samplers against diffusers' schedulers.

Both sides get the same x_T and the same noise, so the samples must agree, not only their
statistics. diffusers' tables are float32, ours float64: hence the tolerance of 1e-3.
"""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from builders import TINY, draw  # noqa: E402
from torch_arrays import nchw, nhwc  # noqa: E402

from minddpm import GaussianDiffusion, UNet2D, backend, samplers  # noqa: E402
from minddpm.diffusion.sampling import Guided, timesteps  # noqa: E402
from minddpm.diffusion.scheduler_file import load_diffusion, scheduler_config  # noqa: E402
from minddpm.diffusion.schedules import BY_NAME, cosine, linear  # noqa: E402
from minddpm.pipeline import save_pipeline  # noqa: E402

RGB = {**TINY, "in_channels": 3, "out_channels": 3}
SHAPE = (2, 8, 8, 3)
T = 50

THEIR_SCHEDULES = {
    "linear": "linear", "cosine": "squaredcos_cap_v2", "quadratic": "scaled_linear",
}  # fmt: skip
every_schedule = pytest.mark.parametrize("schedule", BY_NAME.values(), ids=BY_NAME)
every_prediction = pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
every_variance = pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])


def noises(count):
    """Return `count` arrays of noise of SHAPE."""
    return draw(0, *[SHAPE] * count)


def their_scheduler(kind, diffusion, **changes):
    """Return a scheduler of diffusers, read from the JSON that we write beside a model."""
    return kind.from_config(json.loads(json.dumps(scheduler_config(diffusion))), **changes)


@torch.no_grad()
def their_steps(unet, scheduler, steps, x_T, **options):
    """Run the loop of diffusers' pipelines; return x after every step, [steps, N, H, W, C]."""
    scheduler.set_timesteps(steps)
    x, xs = nchw(x_T), []
    for i, t in enumerate(scheduler.timesteps):
        noise = {"variance_noise": nchw(options["noise"][i])} if "noise" in options else {}
        extra = {key: value for key, value in options.items() if key != "noise"}
        x = scheduler.step(unet(x, t).sample, t, x, **extra, **noise).prev_sample
        xs.append(nhwc(x))
    return np.stack(xs)


@pytest.fixture
def given_noise(monkeypatch):
    """Return give(arrays): DDPMScheduler and DDPMPipeline then use these as noise, in order."""

    def give(arrays):
        remaining = iter(arrays)

        def randn_tensor(shape, **_):
            noise = nchw(next(remaining))
            assert noise.shape == shape
            return noise

        for module in (
            "schedulers.scheduling_ddpm", "pipelines.ddpm.pipeline_ddpm",
            "pipelines.consistency_models.pipeline_consistency_models",
        ):  # fmt: skip
            monkeypatch.setattr(f"diffusers.{module}.randn_tensor", randn_tensor)

    return give


def our_steps(steps):
    return np.stack([backend.to_numpy(step.x) for step in steps])


def check_close(ours, theirs):
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 1e-3 * max(1, np.abs(theirs).max())
    assert theirs.std() > 0.1  # an image of one colour would prove nothing


# --- directories ---------------------------------------------------------------------------------


def test_diffusers_opens_a_directory_written_by_us(tmp_path, model_pair):
    pair = model_pair(**RGB)
    save_pipeline(pair.ours, GaussianDiffusion(linear(T)), tmp_path)
    pipeline = diffusers.DDPMPipeline.from_pretrained(tmp_path)
    assert type(pipeline.unet) is diffusers.UNet2DModel
    assert type(pipeline.scheduler) is diffusers.DDPMScheduler
    for p, q in zip(pair.theirs.parameters(), pipeline.unet.parameters(), strict=True):
        assert torch.equal(p, q)


def test_diffusers_opens_and_keeps_the_names_of_classes(tmp_path, model_pair, caplog):
    """diffusers does not know the key, gives no warning, and stores it again."""
    pair, names = model_pair(**RGB, num_class_embeds=3), ("café", "2")
    pair.ours.config["_label_names"] = names
    pair.ours.save_pretrained(tmp_path / "ours")
    diffusers.utils.logging.enable_propagation()  # to caplog
    again = diffusers.UNet2DModel.from_pretrained(tmp_path / "ours", low_cpu_mem_usage=False)
    diffusers.utils.logging.disable_propagation()
    assert caplog.text == ""
    (x,), labels = noises(1), np.array([0, 2])
    pair.theirs = again
    ours, theirs = pair.outputs(x, np.array([3, 40]), labels)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    again.save_pretrained(tmp_path / "again")
    assert UNet2D.from_pretrained(tmp_path / "again").label_names == names


def test_diffusers_draws_our_samples_from_a_pipeline_of_ours(
    any_backend, tmp_path, model_pair, given_noise
):
    """Files, model, scheduler and loop together. The pipeline returns images in [0, 1]."""
    pair, (x_T, *z) = model_pair(**RGB), noises(1 + T)
    diffusion = GaussianDiffusion(cosine(T), variance="fixed_large")
    save_pipeline(pair.ours, diffusion, tmp_path)

    given_noise([x_T, *z])
    pipeline = diffusers.DDPMPipeline.from_pretrained(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(batch_size=2, num_inference_steps=T, output_type="np").images

    ours = our_steps(samplers.ddpm(diffusion, pair.ours, SHAPE, x_T=x_T, noise=device(z)))
    check_close((ours[-1] / 2 + 0.5).clip(0, 1), theirs)


def test_diffusers_draws_our_samples_of_given_classes(tmp_path, model_pair, given_noise, caplog):
    pair, (x_T, *z) = model_pair(**RGB, num_class_embeds=4), noises(1 + T)
    diffusion, labels = GaussianDiffusion(cosine(T), "v"), [2, 0]
    save_pipeline(pair.ours, diffusion, tmp_path)

    given_noise([x_T, *z])
    diffusers.utils.logging.enable_propagation()  # to caplog
    pipeline = diffusers.DiffusionPipeline.from_pretrained(tmp_path, low_cpu_mem_usage=False)
    diffusers.utils.logging.disable_propagation()
    assert caplog.text == ""
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        batch_size=2, class_labels=labels, num_inference_steps=T, output_type="np"
    ).images

    def ours(labels):
        model = Guided(pair.ours, np.array(labels))
        steps = our_steps(samplers.ddpm(diffusion, model, SHAPE, x_T=x_T, noise=device(z)))
        return (steps[-1] / 2 + 0.5).clip(0, 1)

    check_close(ours(labels), theirs)
    assert np.abs(ours([0, 2]) - theirs).max() > 0.05


def device(noises):
    """Return the function i -> noise of step i, for our samplers."""
    return lambda i: backend.xp.asarray(noises[i])


@pytest.mark.parametrize(("ours", "theirs"), THEIR_SCHEDULES.items())
@every_prediction
def test_we_open_a_directory_written_by_diffusers(tmp_path, model_pair, ours, theirs, prediction):
    """Written by diffusers alone, with its own names for each schedule and prediction."""
    pair, schedule = model_pair(**RGB), BY_NAME[ours]
    their_prediction = {"epsilon": "epsilon", "x0": "sample", "v": "v_prediction"}[prediction]
    scheduler = diffusers.DDPMScheduler(
        num_train_timesteps=T,
        beta_start=0.1 / T,
        beta_end=20 / T,
        beta_schedule=theirs,
        prediction_type=their_prediction,
        variance_type="fixed_large",
        clip_sample=False,
    )
    diffusers.DDPMPipeline(pair.theirs, scheduler).save_pretrained(tmp_path)
    d = load_diffusion(tmp_path)
    assert (d.prediction, d.variance, d.clip_x0) == (prediction, "fixed_large", False)
    np.testing.assert_allclose(d.betas, scheduler.betas.numpy(), rtol=1e-5)
    np.testing.assert_allclose(d.betas, schedule(T), rtol=1e-9)
    again = UNet2D.from_pretrained(tmp_path)
    for p, q in zip(pair.ours.parameters(), again.parameters(), strict=True):
        np.testing.assert_array_equal(p.data, q.data)


@every_schedule
@every_prediction
@pytest.mark.parametrize("steps", [T, 1000])
def test_the_written_scheduler_has_our_noise_levels(schedule, prediction, steps):
    d = GaussianDiffusion(schedule(steps), prediction)
    theirs = their_scheduler(diffusers.DDPMScheduler, d)
    # 1 - beta_T of the cosine is .001, which float32 stores with five digits
    np.testing.assert_allclose(theirs.alphas_cumprod.numpy(), d.alphas_cumprod, rtol=2e-4)
    assert len(theirs.timesteps) == steps


# --- DDPM ----------------------------------------------------------------------------------------


def check_ddpm(pair, give, diffusion, steps):
    x_T, *z = noises(1 + T)
    give(z)
    scheduler = their_scheduler(diffusers.DDPMScheduler, diffusion)
    theirs = their_steps(pair.theirs, scheduler, steps, x_T)
    ours = samplers.ddpm(diffusion, pair.ours, SHAPE, steps, x_T=x_T, noise=device(z))
    check_close(our_steps(ours), theirs)


@every_schedule
@every_prediction
@every_variance
def test_ddpm(model_pair, given_noise, schedule, prediction, variance):
    d = GaussianDiffusion(schedule(T), prediction, variance)
    check_ddpm(model_pair(**RGB), given_noise, d, T)


@every_schedule
@every_prediction
@every_variance
def test_ddpm_in_fewer_steps(any_backend, model_pair, given_noise, schedule, prediction, variance):
    d = GaussianDiffusion(schedule(T), prediction, variance)
    check_ddpm(model_pair(**RGB), given_noise, d, 7)


@pytest.mark.parametrize("steps", [T, 10])
def test_ddpm_with_a_learned_variance(any_backend, model_pair, given_noise, steps):
    d = GaussianDiffusion(linear(T), variance="learned_range")
    check_ddpm(model_pair(**{**RGB, "out_channels": 6}), given_noise, d, steps)


@pytest.mark.parametrize("spacing", ["linspace", "trailing"])
def test_ddpm_with_other_spacings(model_pair, given_noise, spacing):
    """With fixed_small: diffusers' fixed_large adds noise in the last trailing step, too."""
    pair, (x_T, *z) = model_pair(**RGB), noises(1 + T)
    d = GaussianDiffusion(linear(T))
    given_noise(z)
    scheduler = their_scheduler(diffusers.DDPMScheduler, d, timestep_spacing=spacing)
    theirs = their_steps(pair.theirs, scheduler, 7, x_T)
    ours = samplers.ddpm(d, pair.ours, SHAPE, 7, x_T=x_T, noise=device(z), spacing=spacing)
    check_close(our_steps(ours), theirs)


def test_ddpm_unclipped(model_pair, given_noise):
    d = GaussianDiffusion(linear(T), "v", clip_x0=False)
    check_ddpm(model_pair(**RGB), given_noise, d, T)


# --- DDIM ----------------------------------------------------------------------------------------


@every_schedule
@every_prediction
@pytest.mark.parametrize("eta", [0.0, 0.6])
@pytest.mark.parametrize("clipped_eps", [False, True])
def test_ddim(any_backend, model_pair, schedule, prediction, eta, clipped_eps):
    pair, (x_T, *z) = model_pair(**RGB), noises(1 + T)
    d = GaussianDiffusion(schedule(T), prediction)
    scheduler = their_scheduler(diffusers.DDIMScheduler, d)
    theirs = their_steps(
        pair.theirs, scheduler, 5, x_T, eta=eta, use_clipped_model_output=clipped_eps, noise=z
    )
    ours = samplers.ddim(
        d, pair.ours, SHAPE, 5, eta=eta, clipped_eps=clipped_eps, x_T=x_T, noise=device(z)
    )
    check_close(our_steps(ours), theirs)


@pytest.mark.parametrize("eta", [0.0, 0.6])
def test_ddim_over_all_steps(model_pair, eta):
    pair, (x_T, *z) = model_pair(**RGB), noises(1 + T)
    d = GaussianDiffusion(cosine(T))
    scheduler = their_scheduler(diffusers.DDIMScheduler, d)
    theirs = their_steps(pair.theirs, scheduler, T, x_T, eta=eta, noise=z)
    ours = samplers.ddim(d, pair.ours, SHAPE, eta=eta, x_T=x_T, noise=device(z))
    check_close(our_steps(ours), theirs)


def test_clipping_eps_changes_the_samples(model_pair):
    """Otherwise test_ddim could not distinguish the two."""
    pair, (x_T,) = model_pair(**RGB), noises(1)
    d = GaussianDiffusion(linear(T))
    own, clipped = (
        our_steps(samplers.ddim(d, pair.ours, SHAPE, 10, clipped_eps=flag, x_T=x_T))
        for flag in (False, True)
    )
    assert np.abs(own - clipped).max() > 0.1


# --- DPM-Solver++ --------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in diffusers
@every_prediction
@pytest.mark.parametrize(
    ("order", "algorithm"), [("2M", "dpmsolver++"), ("SDE", "sde-dpmsolver++")]
)
def test_dpm_solver(any_backend, model_pair, order, algorithm, prediction):
    """Unclipped, as diffusers' solver never clips; its other spacings differ from ours."""
    pair, (x_T, *z) = model_pair(**RGB), noises(1 + T)
    d = GaussianDiffusion(cosine(T), prediction, clip_x0=False)
    scheduler = their_scheduler(
        diffusers.DPMSolverMultistepScheduler, d, algorithm_type=algorithm,
        timestep_spacing="trailing",
    )  # fmt: skip
    theirs = their_steps(pair.theirs, scheduler, 10, x_T, noise=z)
    ours = samplers.dpm_solver(
        d, pair.ours, SHAPE, 10, order=order, x_T=x_T, noise=device(z), spacing="trailing"
    )
    check_close(our_steps(ours), theirs)


# --- T = 1000 ------------------------------------------------------------------------------------


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_twenty_of_a_thousand_steps(model_pair, given_noise, variance):
    pair, (x_T, *z) = model_pair(**RGB), noises(21)
    d = GaussianDiffusion(linear(1000), variance=variance)
    given_noise(z)
    theirs = their_steps(pair.theirs, their_scheduler(diffusers.DDPMScheduler, d), 20, x_T)
    ours = samplers.ddpm(d, pair.ours, SHAPE, 20, x_T=x_T, noise=device(z))
    check_close(our_steps(ours), theirs)

    theirs = their_steps(pair.theirs, their_scheduler(diffusers.DDIMScheduler, d), 20, x_T)
    check_close(our_steps(samplers.ddim(d, pair.ours, SHAPE, 20, x_T=x_T)), theirs)


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("steps", [1, 2, 7, 20, 333, 1000])
def test_the_timesteps_are_those_of_diffusers(spacing, steps):
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=1000, timestep_spacing=spacing)
    scheduler.set_timesteps(steps)
    # if T / steps is not an integer, diffusers may return one trailing step too many
    theirs = scheduler.timesteps.tolist()[:steps]
    if steps == 1 and spacing != "trailing":
        # A single step starts at pure noise here, see tests/diffusion/test_schedules.py.
        assert theirs == [0]
        theirs = [999]
    assert timesteps(1000, steps, spacing)[::-1].tolist() == theirs


@every_prediction
def test_q_sample_is_add_noise(prediction):
    d = GaussianDiffusion(cosine(T), prediction)
    x0, noise = noises(2)
    t = np.array([3, T - 1])
    scheduler = their_scheduler(diffusers.DDPMScheduler, d)
    theirs = scheduler.add_noise(nchw(x0), nchw(noise), torch.from_numpy(t))
    check_close(d.q_sample(x0, t, noise), nhwc(theirs))
    if prediction == "v":
        theirs = scheduler.get_velocity(nchw(x0), nchw(noise), torch.from_numpy(t))
        check_close(d.target(x0, t, noise), nhwc(theirs))
