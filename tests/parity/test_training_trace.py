"""Ten training steps in minddpm and in PyTorch with the same weights, data, t and noise.

The entire loop must agree, not only the gradients: noising, loss, clipping, warm-up, Adam's
moments and bias corrections. An error in any of them grows from step to step.
"""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from builders import TINY  # noqa: E402

from minddpm import GaussianDiffusion, backend, nn, random  # noqa: E402
from minddpm.data import ImageDataset, batch_indices  # noqa: E402
from minddpm.diffusion.scheduler_file import scheduler_config  # noqa: E402
from minddpm.diffusion.schedules import linear  # noqa: E402
from minddpm.nn import Parameter  # noqa: E402
from minddpm.training.ddpm import Trainer, TrainingOptions  # noqa: E402
from minddpm.training.run_directory import RunDirectory  # noqa: E402

STEPS = 10
PIXELS = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 1), dtype=np.uint8)
DIFFUSION = GaussianDiffusion(linear(100))


def options(**changes):
    """Return options: the rate rises in the first half; the gradient norm falls from 3 to 1.7."""
    defaults = {"steps": STEPS, "batch_size": 8, "lr": 1e-3, "warmup_steps": 5, "clip_norm": 2.0}
    return TrainingOptions(**{**defaults, **changes})


def our_trace(pair, tmp_path, options):
    """Return the losses and gradient norms of STEPS steps of our training loop."""
    dataset = ImageDataset(PIXELS, None, "random pixels")
    trainer = Trainer(pair.ours, DIFFUSION, dataset, RunDirectory(tmp_path), options)
    losses, norms = [], []
    for _ in range(STEPS):
        record = trainer.train_step()
        losses.append(backend.to_numpy(record.losses).mean())
        norms.append(math.sqrt(backend.to_numpy(record.squared_norm)))
    return losses, norms


def their_trace(unet, options, optimizer):
    """Return the same for PyTorch; only the batch, t and noise come from minddpm."""
    scheduler = diffusers.DDPMScheduler.from_config(scheduler_config(DIFFUSION))
    warmup = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / options.warmup_steps)
    )
    losses, norms = [], []
    for step in range(STEPS):
        chosen = batch_indices(len(PIXELS), options.batch_size, step, options.seed)
        x0 = torch.from_numpy(PIXELS[chosen]).permute(0, 3, 1, 2) / 127.5 - 1
        t = random.integers(100, options.batch_size, options.seed, random.TIMESTEP, step)
        noise = random.normal((len(chosen), 8, 8, 1), options.seed, random.NOISE, step)
        noise = torch.from_numpy(backend.to_numpy(noise)).permute(0, 3, 1, 2)
        t = torch.from_numpy(t)

        output = unet(scheduler.add_noise(x0, noise, t), t).sample
        loss = torch.nn.functional.mse_loss(output, noise)
        optimizer.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(unet.parameters(), options.clip_norm).item())
        optimizer.step()
        warmup.step()
        losses.append(loss.item())
    return losses, norms


@pytest.mark.parametrize("clip_norm", [0.2, 2.0, 1e9], ids=["always", "at times", "never"])
def test_ten_losses_with_adam(any_backend, model_pair, tmp_path, clip_norm):
    pair, o = model_pair(**TINY), options(clip_norm=clip_norm)
    optimizer = torch.optim.Adam(pair.theirs.parameters(), lr=o.lr)
    losses, norms = their_trace(pair.theirs, o, optimizer)
    our_losses, our_norms = our_trace(pair, tmp_path, o)
    np.testing.assert_allclose(our_losses, losses, rtol=1e-4)
    np.testing.assert_allclose(our_norms, norms, rtol=1e-3)
    assert (max(norms) > clip_norm) == (clip_norm < 10)
    assert (min(norms) > clip_norm) == (clip_norm < 1)
    assert losses[-1] < 0.9 * losses[0]  # ten equal losses would prove little


@pytest.mark.parametrize("weight_decay", [0.5, 20.0])
def test_ten_losses_with_adamw(any_backend, model_pair, tmp_path, weight_decay):
    pair, o = model_pair(**TINY), options(weight_decay=weight_decay)
    optimizer = torch.optim.AdamW(pair.theirs.parameters(), lr=o.lr, weight_decay=weight_decay)
    losses, norms = their_trace(pair.theirs, o, optimizer)
    our_losses, our_norms = our_trace(pair, tmp_path, o)
    np.testing.assert_allclose(our_losses, losses, rtol=1e-4)
    np.testing.assert_allclose(our_norms, norms, rtol=1e-3)


# --- parts of the loop ---------------------------------------------------------------------------

SHAPES = [(3, 4), (5,), (2, 1, 3)]


def parameters():
    rng = np.random.default_rng(1)
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in SHAPES]
    ours = [Parameter(backend.xp.asarray(a)) for a in arrays]
    return ours, [torch.nn.Parameter(torch.from_numpy(a.copy())) for a in arrays]


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.9)])
@pytest.mark.parametrize("eps", [1e-8, 0.1])
def test_the_weights_after_thirty_steps(any_backend, weight_decay, betas, eps):
    """Gradients of very different sizes and a large rate, so that every term of Adam matters."""
    ours, theirs = parameters()
    settings = {"lr": 0.05, "betas": betas, "eps": eps, "weight_decay": weight_decay}
    optimizer, reference = nn.Adam(ours, **settings), torch.optim.AdamW(theirs, **settings)
    rng = np.random.default_rng(2)
    for step in range(30):
        for p, q in zip(ours, theirs, strict=True):
            gradient = rng.standard_normal(p.shape).astype(np.float32) * 10.0 ** (step % 5 - 3)
            p.grad, q.grad = backend.xp.asarray(gradient), torch.from_numpy(gradient)
        optimizer.step()
        reference.step()
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(backend.to_numpy(p.data), q.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_clipping(any_backend, scale):
    """The norm is that of all gradients together; smaller ones are not scaled."""
    ours, theirs = parameters()
    optimizer = nn.Adam(ours)
    for p, q in zip(ours, theirs, strict=True):
        p.grad, q.grad = scale * p.data, scale * q.detach().clone()
    norm = torch.nn.utils.clip_grad_norm_(theirs, 1.0).item()
    squared = optimizer.squared_norm()
    factor = backend.to_numpy(backend.kernels.clip_scale(squared, 1.0))
    assert math.sqrt(backend.to_numpy(squared)) == pytest.approx(norm, rel=1e-6)
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(factor * backend.to_numpy(p.grad), q.grad, rtol=1e-5)


def test_the_moving_average_of_the_weights(any_backend, model_pair, tmp_path):
    """EMA over ten large training steps against a float64 loop over the weights of each."""
    decay, o = 0.3, options(ema_decay=0.3, lr=0.05, warmup_steps=1)
    pair = model_pair(**TINY)
    dataset = ImageDataset(PIXELS, None, "random pixels")
    trainer = Trainer(pair.ours, DIFFUSION, dataset, RunDirectory(tmp_path), o)

    def weights():
        return backend.to_numpy(trainer.optimizer.flat.data).astype(np.float64)

    average = weights()
    for step in range(STEPS):
        trainer.train_step()
        # In the first steps the decay is smaller: 0.1, 2/11, 0.25, 4/13 > 0.3
        current_decay = min(decay, (1 + step) / (10 + step))
        average = current_decay * average + (1 - current_decay) * weights()
        np.testing.assert_allclose(backend.to_numpy(trainer.ema.average), average, atol=1e-6)

    raw = weights()
    with trainer.ema.applied():
        np.testing.assert_allclose(weights(), average, atol=1e-6)
        assert np.abs(weights() - raw).max() > 1e-4
    np.testing.assert_array_equal(weights(), raw)


@pytest.mark.parametrize("decay", [0.9999, 0.2])
def test_how_fast_the_average_forgets_the_first_weights(any_backend, decay):
    """If all later weights are zero, the average is the first times the product of the decays."""
    ours, _ = parameters()
    optimizer = nn.Adam(ours)
    ema = nn.EMA(optimizer.flat, decay)
    first = backend.to_numpy(optimizer.flat.data).astype(np.float64)
    optimizer.flat.data[...] = 0
    product = 1.0
    for step, warming_up in enumerate([1 / 10, 2 / 11, 3 / 12, 4 / 13]):
        ema.update(step)
        product *= min(decay, warming_up)
        np.testing.assert_allclose(backend.to_numpy(ema.average), product * first, rtol=1e-4)
