"""Pipelines saved by diffusers with every scheduler that minddpm opens: the same images.

Both sides get the same x_T and the same noise.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from builders import TINY, draw  # noqa: E402
from torch_arrays import nchw, nhwc  # noqa: E402

import minddpm  # noqa: E402
from minddpm.generate import SAMPLERS, sampler_options  # noqa: E402
from refusals import refused  # noqa: E402

RGB = {**TINY, "in_channels": 3, "out_channels": 3}
SHAPE = (2, 8, 8, 3)
PROCESS = {"num_train_timesteps": 100, "beta_start": 1e-3, "beta_end": 0.15}
ZERO = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
TRAILING = {"timestep_spacing": "trailing"}
THRESHOLD = {"thresholding": True, "dynamic_thresholding_ratio": 0.8, "sample_max_value": 1.5}
DPM, SINGLE = "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"
PNDM = "PNDMScheduler"
EULER, ANCESTRAL = "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"
V = {"prediction_type": "v_prediction"}
OPENED = [
    ("DDPMScheduler", {}),
    ("DDPMScheduler", {"variance_type": "fixed_large"}),
    ("DDPMScheduler", {**TRAILING, "clip_sample_range": 0.7}),
    ("DDPMScheduler", {"timestep_spacing": "linspace", "steps_offset": 0, **THRESHOLD}),
    ("DDPMScheduler", {"steps_offset": 2}),
    ("DDPMScheduler", {**ZERO, **TRAILING}),
    ("DDIMScheduler", {}),
    ("DDIMScheduler", {"set_alpha_to_one": False, "steps_offset": 1, "clip_sample": False}),
    ("DDIMScheduler", {"timestep_spacing": "linspace"}),
    ("DDIMScheduler", {**TRAILING, "clip_sample_range": 0.7}),
    ("DDIMScheduler", {**THRESHOLD, "prediction_type": "sample"}),
    ("DDIMScheduler", {**ZERO, **TRAILING}),
    ("DDIMScheduler", {"beta_schedule": "squaredcos_cap_v2"}),
    (DPM, {}),
    (DPM, {"solver_order": 1, "timestep_spacing": "leading", "steps_offset": 1}),
    (DPM, {"algorithm_type": "sde-dpmsolver++", **TRAILING}),
    (DPM, {**THRESHOLD, **V}),
    (DPM, {"rescale_betas_zero_snr": True, **TRAILING, **V}),
    (SINGLE, {}),
    (SINGLE, {**V, "lower_order_final": True}),
    (EULER, {}),
    (EULER, {**V, "timestep_spacing": "leading", "steps_offset": 1}),
    (EULER, {**TRAILING}),
    (PNDM, {}),
    (PNDM, {**V, "set_alpha_to_one": True}),
    (PNDM, {"skip_prk_steps": True, "steps_offset": 1}),
    (PNDM, {**V, "skip_prk_steps": True}),
    (ANCESTRAL, {}),
    (ANCESTRAL, {**V, **TRAILING}),
]


def saved(tmp_path, model_pair, kind, changes):
    """Return the model and the scheduler that diffusers wrote into tmp_path."""
    theirs = model_pair(**RGB).theirs.eval()
    scheduler = getattr(diffusers, kind)(**PROCESS, **changes)
    diffusers.DDPMPipeline(theirs, scheduler).save_pretrained(tmp_path)
    return theirs, scheduler


@torch.no_grad()
def their_image(unet, scheduler, steps, x_T, noise, monkeypatch):
    """Run the loop of diffusers' pipelines, Euler's in the variables of the other schedulers."""
    remaining = iter(noise)
    module = f"diffusers.schedulers.{type(scheduler).__module__.rsplit('.', 1)[1]}"
    monkeypatch.setattr(
        f"{module}.randn_tensor", lambda *_, **__: nchw(next(remaining)), raising=False
    )
    scheduler.set_timesteps(steps)
    x = nchw(x_T)
    if "Euler" in type(scheduler).__name__:
        x = x * (scheduler.sigmas[0] ** 2 + 1) ** 0.5
    for t in scheduler.timesteps:
        output = unet(scheduler.scale_model_input(x, t), t).sample
        x = scheduler.step(output, t, x).prev_sample
    return nhwc(x)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("steps", [7, 10])
@pytest.mark.parametrize(("kind", "changes"), OPENED)
def test_a_saved_pipeline_gives_diffusers_images(
    tmp_path, model_pair, monkeypatch, kind, changes, steps
):
    theirs, scheduler = saved(tmp_path, model_pair, kind, changes)
    x_T, *noise = draw(0, *[SHAPE] * (1 + steps))
    unet, d = minddpm.load(tmp_path)
    name, options = sampler_options(d, None)
    if "noise" in SAMPLER_WITH_NOISE.get(name, ()):
        options["noise"] = noise.__getitem__
    *_, step = SAMPLERS[name](d, unet, SHAPE, steps, x_T=x_T, **options)
    expected = their_image(theirs, scheduler, steps, x_T, noise, monkeypatch)
    assert expected.std() > 0.1
    assert np.abs(step.x - expected).max() <= 1e-4 * max(1, np.abs(expected).max())


SAMPLER_WITH_NOISE = {name: ("noise",) for name in ("ddpm", "ddim", "dpm_solver_sde")}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("kind", "changes", "word"),
    [
        ("DDPMScheduler", {"variance_type": "fixed_large", **TRAILING}, "timestep_spacing"),
        ("DDPMScheduler", {"variance_type": "learned"}, "variance_type"),
        ("DDIMScheduler", {"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"),
        (DPM, {"solver_order": 3}, "solver_order"),
        (DPM, {"solver_type": "heun"}, "solver_type"),
        (DPM, {"use_karras_sigmas": True}, "use_karras_sigmas"),
        (DPM, {"use_lu_lambdas": True}, "use_lu_lambdas"),
        (DPM, {"final_sigmas_type": "sigma_min"}, "final_sigmas_type"),
        (DPM, {"lambda_min_clipped": -5.1}, "lambda_min_clipped"),
        (SINGLE, {"algorithm_type": "sde-dpmsolver++"}, "algorithm_type"),
        (EULER, {"interpolation_type": "log_linear"}, "interpolation_type"),
        (EULER, {"use_exponential_sigmas": True}, "use_exponential_sigmas"),
        (PNDM, {**TRAILING}, "timestep_spacing"),
        ("HeunDiscreteScheduler", {}, "_class_name"),
    ],
)
def test_a_setting_that_we_cannot_run_is_refused_by_its_key(
    tmp_path, model_pair, kind, changes, word
):
    saved(tmp_path, model_pair, kind, changes)
    with refused(word, "scheduler_config.json"):
        minddpm.load(tmp_path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_key_of_diffusers_schedulers_has_a_decision():
    from minddpm.diffusion.scheduler_keys import KEYS

    for kind, keys in KEYS.items():
        theirs = getattr(diffusers, kind)()
        public, ours = ({k for k in all_keys if k[0] != "_"} for all_keys in (theirs.config, keys))
        assert public == ours, kind  # a key of our own begins with "_", as diffusers' private ones


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("one", [True, False])
@torch.no_grad()
def test_inversion_is_that_of_diffusers(tmp_path, model_pair, prediction, one):
    changes = {"prediction_type": prediction, "set_alpha_to_one": one}
    theirs, scheduler = saved(tmp_path, model_pair, "DDIMScheduler", changes)
    scheduler = diffusers.DDIMInverseScheduler.from_config(scheduler.config)
    (x0,) = draw(1, SHAPE)
    scheduler.set_timesteps(7)
    x = nchw(x0)
    for t in scheduler.timesteps:
        x = scheduler.step(theirs(x, t).sample, t, x).prev_sample
    unet, d = minddpm.load(tmp_path)
    steps = d.sampling.options["spacing"]
    *_, step = minddpm.samplers.invert(d, unet, x0, 7, spacing=steps, t_ahead=True)
    assert np.abs(step.x - nhwc(x)).max() < 1e-4


@pytest.mark.parametrize(
    ("prediction", "total", "mean"), [("epsilon", 258.9606, 0.3372), ("v", 202.0296, 0.2631)]
)
def test_the_full_loop_of_ddpm_in_diffusers_test_suite(prediction, total, mean):
    """The others need no torch: tests/diffusion/test_full_loops.py."""
    from minddpm.diffusion.schedules import linear

    count = torch.arange(4 * 3 * 8 * 8).reshape(3, 8, 8, 4) / (4 * 3 * 8 * 8)
    x_T, generator = count.permute(3, 1, 2, 0).numpy(), torch.manual_seed(0)
    d = minddpm.GaussianDiffusion(linear(1000), prediction)
    *_, step = minddpm.samplers.ddpm(
        d,
        lambda x, t: x * (t / (t + 1)).astype("float32").reshape(-1, 1, 1, 1),
        (4, 8, 8, 3),
        x_T=x_T,
        noise=lambda i: nhwc(torch.randn(4, 3, 8, 8, generator=generator)),
    )
    assert np.abs(step.x).sum() == pytest.approx(total, abs=1e-2)
    assert np.abs(step.x).mean() == pytest.approx(mean, abs=1e-3)
