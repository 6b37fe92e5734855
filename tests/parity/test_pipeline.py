"""Run directories as diffusers pipelines, and our samplers against diffusers' schedulers.

Both sides get the same x_T and the same noise, so that the pictures must agree, not only their
statistics. diffusers' tables are float32 and ours float64: hence the tolerance of 1e-3.
"""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from minddpm import GaussianDiffusion, UNet2D, backend, samplers  # noqa: E402
from minddpm.diffusion.scheduler_file import load_diffusion, scheduler_config  # noqa: E402
from minddpm.diffusion.schedules import BY_NAME, cosine, linear, timesteps  # noqa: E402
from minddpm.pipeline import save_pipeline  # noqa: E402

TINY = {
    "sample_size": 8,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
SHAPE = (2, 8, 8, 3)
T = 50

every_schedule = pytest.mark.parametrize("schedule", BY_NAME.values(), ids=BY_NAME)
every_prediction = pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])


def draw(count, seed=0):
    """`count` arrays of noise [N, H, W, C]."""
    return list(np.random.default_rng(seed).standard_normal((count, *SHAPE)).astype(np.float32))


def nchw(x):
    return torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()


def nhwc(x):
    return x.permute(0, 2, 3, 1).numpy()


def their_scheduler(kind, diffusion, **changes):
    """A scheduler of diffusers, from the JSON that we write beside a model."""
    return kind.from_config(json.loads(json.dumps(scheduler_config(diffusion))), **changes)


@torch.no_grad()
def their_walk(unet, scheduler, steps, x_T, **options):
    """The loop of diffusers' pipelines: x after every step, [steps, N, H, W, C]."""
    scheduler.set_timesteps(steps)
    x, walk = nchw(x_T), []
    for i, t in enumerate(scheduler.timesteps):
        noise = {"variance_noise": nchw(options["noise"][i])} if "noise" in options else {}
        extra = {key: value for key, value in options.items() if key != "noise"}
        x = scheduler.step(unet(x, t).sample, t, x, **extra, **noise).prev_sample
        walk.append(nhwc(x))
    return np.stack(walk)


@pytest.fixture
def given_noise(monkeypatch):
    """(arrays) -> DDPMScheduler and DDPMPipeline take these as their noise, one after the other."""

    def give(arrays):
        rest = iter(arrays)

        def randn_tensor(shape, **_):
            noise = nchw(next(rest))
            assert noise.shape == shape
            return noise

        for module in ("schedulers.scheduling_ddpm", "pipelines.ddpm.pipeline_ddpm"):
            monkeypatch.setattr(f"diffusers.{module}.randn_tensor", randn_tensor)

    return give


def our_walk(steps):
    return np.stack([backend.to_numpy(step.x) for step in steps])


def check_close(ours, theirs):
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 1e-3 * max(1, np.abs(theirs).max())
    assert theirs.std() > 0.1  # not a picture in one colour, which anything would reproduce


# --- directories ---------------------------------------------------------------------------------


def test_diffusers_opens_a_directory_of_ours(tmp_path, model_pair):
    pair = model_pair(**TINY)
    save_pipeline(pair.ours, GaussianDiffusion(linear(T)), tmp_path)
    pipeline = diffusers.DDPMPipeline.from_pretrained(tmp_path)
    assert type(pipeline.unet) is diffusers.UNet2DModel
    assert type(pipeline.scheduler) is diffusers.DDPMScheduler
    for p, q in zip(pair.theirs.parameters(), pipeline.unet.parameters(), strict=True):
        assert torch.equal(p, q)


def test_a_pipeline_of_ours_run_by_diffusers_gives_our_pictures(
    any_backend, tmp_path, model_pair, given_noise
):
    """All of it at once: files, model, scheduler, loop. The pipeline ends in [0, 1]."""
    pair, (x_T, *z) = model_pair(**TINY), draw(1 + T)
    diffusion = GaussianDiffusion(cosine(T), variance="fixed_large")
    save_pipeline(pair.ours, diffusion, tmp_path)

    given_noise([x_T, *z])
    pipeline = diffusers.DDPMPipeline.from_pretrained(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(batch_size=2, num_inference_steps=T, output_type="np").images

    ours = our_walk(samplers.ddpm(diffusion, pair.ours, SHAPE, x_T=x_T, noise=device(z)))
    check_close((ours[-1] / 2 + 0.5).clip(0, 1), theirs)


def device(noises):
    """Noise of step i, for our samplers."""
    return lambda i: backend.xp.asarray(noises[i])


@every_schedule
@every_prediction
def test_we_open_a_directory_of_diffusers(tmp_path, model_pair, schedule, prediction):
    """Written by diffusers alone, in its own words for each schedule, T and prediction."""
    pair = model_pair(**TINY)
    name = {"linear": "linear", "cosine": "squaredcos_cap_v2", "quadratic": "scaled_linear"}
    their_prediction = {"epsilon": "epsilon", "x0": "sample", "v": "v_prediction"}[prediction]
    scheduler = diffusers.DDPMScheduler(
        num_train_timesteps=T,
        beta_start=0.1 / T,
        beta_end=20 / T,
        beta_schedule=name[schedule.__name__],
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
    # 1 - beta_T of the cosine is .001, of which float32 keeps five digits
    np.testing.assert_allclose(theirs.alphas_cumprod.numpy(), d.alphas_cumprod, rtol=2e-4)
    assert len(theirs.timesteps) == steps


# --- DDPM ----------------------------------------------------------------------------------------


@every_schedule
@every_prediction
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("steps", [None, 7])
def test_ddpm(any_backend, model_pair, given_noise, schedule, prediction, variance, steps):
    pair, (x_T, *z) = model_pair(**TINY), draw(1 + T)
    d = GaussianDiffusion(schedule(T), prediction, variance)
    given_noise(z)
    scheduler = their_scheduler(diffusers.DDPMScheduler, d)
    theirs = their_walk(pair.theirs, scheduler, steps or T, x_T)
    walk = samplers.ddpm(d, pair.ours, SHAPE, steps, x_T=x_T, noise=device(z))
    check_close(our_walk(walk), theirs)


@pytest.mark.parametrize("steps", [None, 10])
def test_ddpm_with_a_learned_variance(any_backend, model_pair, given_noise, steps):
    pair, (x_T, *z) = model_pair(**{**TINY, "out_channels": 6}), draw(1 + T)
    d = GaussianDiffusion(linear(T), variance="learned_range")
    given_noise(z)
    scheduler = their_scheduler(diffusers.DDPMScheduler, d)
    theirs = their_walk(pair.theirs, scheduler, steps or T, x_T)
    check_close(
        our_walk(samplers.ddpm(d, pair.ours, SHAPE, steps, x_T=x_T, noise=device(z))), theirs
    )


@pytest.mark.parametrize("spacing", ["linspace", "trailing"])
def test_ddpm_with_other_spacings(model_pair, given_noise, spacing):
    """fixed_small: after trailing steps, diffusers' fixed_large adds noise even to the last one."""
    pair, (x_T, *z) = model_pair(**TINY), draw(1 + T)
    d = GaussianDiffusion(linear(T))
    given_noise(z)
    scheduler = their_scheduler(diffusers.DDPMScheduler, d, timestep_spacing=spacing)
    theirs = their_walk(pair.theirs, scheduler, 7, x_T)
    walk = samplers.ddpm(d, pair.ours, SHAPE, 7, x_T=x_T, noise=device(z), spacing=spacing)
    check_close(our_walk(walk), theirs)


def test_ddpm_unclipped(model_pair, given_noise):
    pair, (x_T, *z) = model_pair(**TINY), draw(1 + T)
    d = GaussianDiffusion(linear(T), "v", clip_x0=False)
    given_noise(z)
    theirs = their_walk(pair.theirs, their_scheduler(diffusers.DDPMScheduler, d), T, x_T)
    check_close(our_walk(samplers.ddpm(d, pair.ours, SHAPE, x_T=x_T, noise=device(z))), theirs)


# --- DDIM ----------------------------------------------------------------------------------------


@every_schedule
@every_prediction
@pytest.mark.parametrize("eta", [0.0, 0.6])
@pytest.mark.parametrize("clipped_eps", [False, True])
def test_ddim(any_backend, model_pair, schedule, prediction, eta, clipped_eps):
    pair, (x_T, *z) = model_pair(**TINY), draw(1 + T)
    d = GaussianDiffusion(schedule(T), prediction)
    scheduler = their_scheduler(diffusers.DDIMScheduler, d)
    theirs = their_walk(
        pair.theirs, scheduler, 10, x_T, eta=eta, use_clipped_model_output=clipped_eps, noise=z
    )
    walk = samplers.ddim(
        d, pair.ours, SHAPE, 10, eta=eta, clipped_eps=clipped_eps, x_T=x_T, noise=device(z)
    )
    check_close(our_walk(walk), theirs)


@pytest.mark.parametrize("eta", [0.0, 0.6])
def test_ddim_over_all_steps(model_pair, eta):
    pair, (x_T, *z) = model_pair(**TINY), draw(1 + T)
    d = GaussianDiffusion(cosine(T))
    scheduler = their_scheduler(diffusers.DDIMScheduler, d)
    theirs = their_walk(pair.theirs, scheduler, T, x_T, eta=eta, noise=z)
    walk = samplers.ddim(d, pair.ours, SHAPE, eta=eta, x_T=x_T, noise=device(z))
    check_close(our_walk(walk), theirs)


def test_whether_eps_is_clipped_matters(model_pair):
    """Or the two would be compared with the same pictures above."""
    pair, (x_T,) = model_pair(**TINY), draw(1)
    d = GaussianDiffusion(linear(T))
    own, clipped = (
        our_walk(samplers.ddim(d, pair.ours, SHAPE, 10, clipped_eps=flag, x_T=x_T))
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
    """Unclipped and with trailing steps: diffusers' solver never clips, and counts its own way."""
    pair, (x_T, *z) = model_pair(**TINY), draw(1 + T)
    d = GaussianDiffusion(cosine(T), prediction, clip_x0=False)
    scheduler = their_scheduler(
        diffusers.DPMSolverMultistepScheduler, d, algorithm_type=algorithm,
        timestep_spacing="trailing",
    )  # fmt: skip
    theirs = their_walk(pair.theirs, scheduler, 10, x_T, noise=z)
    walk = samplers.dpm_solver(
        d, pair.ours, SHAPE, 10, order=order, x_T=x_T, noise=device(z), spacing="trailing"
    )
    check_close(our_walk(walk), theirs)


# --- T = 1000 ------------------------------------------------------------------------------------


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_twenty_of_a_thousand_steps(model_pair, given_noise, variance):
    pair, (x_T, *z) = model_pair(**TINY), draw(21)
    d = GaussianDiffusion(linear(1000), variance=variance)
    given_noise(z)
    theirs = their_walk(pair.theirs, their_scheduler(diffusers.DDPMScheduler, d), 20, x_T)
    ours = samplers.ddpm(d, pair.ours, SHAPE, 20, x_T=x_T, noise=device(z))
    check_close(our_walk(ours), theirs)

    theirs = their_walk(pair.theirs, their_scheduler(diffusers.DDIMScheduler, d), 20, x_T)
    check_close(our_walk(samplers.ddim(d, pair.ours, SHAPE, 20, x_T=x_T)), theirs)


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("steps", [1, 2, 7, 20, 333, 1000])
def test_the_kept_timesteps_are_those_of_diffusers(spacing, steps):
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=1000, timestep_spacing=spacing)
    scheduler.set_timesteps(steps)
    # where T / steps is no whole number, diffusers' trailing steps may be one too many
    theirs = scheduler.timesteps.tolist()[:steps]
    assert timesteps(1000, steps, spacing)[::-1].tolist() == theirs


@every_prediction
def test_q_sample_is_add_noise(prediction):
    d = GaussianDiffusion(cosine(T), prediction)
    x0, noise = draw(2)
    t = np.array([3, T - 1])
    scheduler = their_scheduler(diffusers.DDPMScheduler, d)
    theirs = scheduler.add_noise(nchw(x0), nchw(noise), torch.from_numpy(t))
    check_close(d.q_sample(x0, t, noise), nhwc(theirs))
    if prediction == "v":
        theirs = scheduler.get_velocity(nchw(x0), nchw(noise), torch.from_numpy(t))
        check_close(d.target(x0, t, noise), nhwc(theirs))
