"""The same UNet in PyTorch: diffusers' UNet2DModel, its training step and its sampling step.

Imported only where PyTorch and diffusers are installed. Each mode is what a PyTorch user would
choose: fused Adam, no autograd for sampling, autocast for bfloat16.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DModel

import minddpm
from minddpm import GaussianDiffusion, backend, random
from minddpm.data import batch_indices, to_float
from minddpm.gpucheck.arrays import verify
from minddpm.gpucheck.checks import random_unet, strokes
from minddpm.gpucheck.modes import LAYOUTS, PRECISIONS, Mode
from minddpm.gpucheck.timings import Run
from minddpm.nn import Module
from minddpm.nn.torch_layout import torch_tensors
from minddpm.training.options import TrainingOptions

Tensor = torch.Tensor
Predict = Callable[[Tensor, Tensor], Tensor]
FORMATS = dict(zip(LAYOUTS, (torch.contiguous_format, torch.channels_last), strict=True))
WARM_UP = 3  # runs before a graph is recorded


class Plain(torch.nn.Module):
    """The UNet as a module that returns a tensor."""

    def __init__(self, net: UNet2DModel):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.net(x, t, return_dict=False)[0]


def their_unet(unet: Module, layout: str, device: str = "cpu") -> UNet2DModel:
    """Return diffusers' UNet2DModel with the configuration and the weights of a minddpm.UNet2D."""
    net = UNet2DModel(**unet.config)
    weights = torch_tensors(unet)
    net.load_state_dict({name: torch.from_numpy(w.copy()) for name, w in weights.items()})
    return net.to(device, memory_format=FORMATS[layout])


def images(x: np.ndarray, layout: str) -> Tensor:
    """Return a copy of [N, H, W, C] as [N, C, H, W] in this memory layout."""
    return torch.from_numpy(x).permute(0, 3, 1, 2).clone(memory_format=FORMATS[layout])


# --- the two steps -------------------------------------------------------------------------------


class TrainingStep:
    """Noising, forward, loss, backward, clipping, Adam and the moving average.

    predict: runs `net`. graph: to be recorded as a CUDA graph.
    """

    def __init__(
        self, net: torch.nn.Module, predict: Predict, d: GaussianDiffusion, *, lr: float,
        clip: float, decay: float, graph: bool = False,
    ):  # fmt: skip
        self.predict, self.clip, self.decay = predict, clip, decay
        self.parameters = list(net.parameters())
        self.current = [p.detach() for p in self.parameters]
        self.average = [p.clone() for p in self.current]
        self.optimizer = torch.optim.Adam(self.parameters, lr, fused=True, capturable=graph)
        tables = (d.sqrt_alphas_cumprod, d.sqrt_one_minus_alphas_cumprod)
        device = self.current[0].device
        self.tables = [torch.from_numpy(t.astype(np.float32)).to(device) for t in tables]

    def __call__(self, x0: Tensor, t: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss and the norm of the gradient, on the device."""
        a, b = (table[t].view(-1, 1, 1, 1) for table in self.tables)
        loss = torch.nn.functional.mse_loss(self.predict(a * x0 + b * noise, t), noise)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        torch._foreach_lerp_(self.average, self.current, 1 - self.decay)
        return loss.detach(), norm

    def restart(self, weights: list[Tensor]) -> None:
        """Make this step the first one again, in the same memory."""
        for p, average, initial in zip(self.current, self.average, weights, strict=True):
            p.copy_(initial)
            average.copy_(initial)
        for state in self.optimizer.state.values():
            for x in state.values():
                x.zero_()


def sampling_step(predict: Predict, d: GaussianDiffusion) -> Callable[..., Tensor]:
    """Return step(x, z) -> x_{t-1}, the first step of ancestral sampling, from t = T - 1.

    x_{t-1} = k0 pred_x0 + kx x_t + sigma z
    """
    px, po = float(d.pred_x0_coef1[-1]), float(d.pred_x0_coef2[-1])
    k0, kx = float(d.posterior_mean_coef1[-1]), float(d.posterior_mean_coef2[-1])
    sigma = float(d.posterior_variance[-1]) ** 0.5

    def step(x: Tensor, z: Tensor) -> Tensor:
        t = torch.full((len(x),), d.T - 1, device=x.device)
        pred_x0 = (px * x + po * predict(x, t)).clamp_(-1, 1)
        return k0 * pred_x0 + kx * x + sigma * z

    return step


# --- verified, and ready to be timed -------------------------------------------------------------


def training(mode: Mode, config: dict, batch: int, wanted: np.ndarray, device: str = "cuda") -> Run:
    """Return a training step whose first two losses are those of small_trainer, `wanted`."""
    minddpm.manual_seed(0)
    unet, d = minddpm.UNet2D(**config), _diffusion()
    o = TrainingOptions()
    net = their_unet(unet, mode.layout, device)
    graph = mode.how == "graph"
    step = TrainingStep(
        net, _predict(net, mode, device), d, lr=o.lr, clip=o.clip_norm, decay=o.ema_decay,
        graph=graph,
    )  # fmt: skip
    batches = [_batch(config, batch, i, mode.layout, d.T) for i in range(2)]
    inputs = [[x.to(device) for x in some] for some in batches]
    weights = [p.clone() for p in step.current]
    run = graphed(step, inputs[0]) if graph else step
    step.restart(weights)
    losses = [run(*some)[0].item() for some in inputs]
    verify(np.array(losses), wanted, PRECISIONS[mode.precision])
    x0 = batches[0][0].pin_memory() if device == "cuda" else batches[0][0]

    def fresh() -> tuple[Tensor, Tensor]:
        x = x0.to(device, non_blocking=True)
        t = torch.randint(d.T, (batch,), device=device)
        return run(x, t, torch.randn_like(x))

    return fresh


def sampling(mode: Mode, config: dict, batch: int, wanted: np.ndarray, device: str = "cuda") -> Run:
    """Return a sampling step whose result for the first noise of checks.sampling is `wanted`."""
    net = their_unet(random_unet(config), mode.layout, device).eval().requires_grad_(False)
    step = torch.no_grad()(sampling_step(_predict(net, mode, device), _diffusion()))
    shape = (batch, config["sample_size"], config["sample_size"], config["in_channels"])
    noise = (random.normal(shape, 0, purpose) for purpose in (random.X_T, random.SAMPLE))
    x, z = (images(backend.to_numpy(a), mode.layout).to(device) for a in noise)
    run = graphed(step, (x, z)) if mode.how == "graph" else step
    result = run(x, z).permute(0, 2, 3, 1).cpu().numpy()
    verify(result, wanted, 10 * PRECISIONS[mode.precision])
    return lambda: run(x, torch.randn_like(x))


def _diffusion() -> GaussianDiffusion:
    return GaussianDiffusion(minddpm.schedules.linear(1000))


def _batch(config: dict, batch: int, step: int, layout: str, T: int) -> tuple[Tensor, ...]:
    """Return x0, t and noise of a step of checks.small_trainer, on the host."""
    pixels = strokes(2 * batch, config["sample_size"])
    x0 = to_float(pixels[batch_indices(len(pixels), batch, step, 0)])
    t = torch.from_numpy(random.integers(T, batch, 0, random.TIMESTEP, step))
    noise = backend.to_numpy(random.normal(x0.shape, 0, random.NOISE, step))
    return images(x0, layout), t, images(noise, layout)


def _predict(net: UNet2DModel, mode: Mode, device: str) -> Predict:
    """Return the model as this mode runs it."""
    torch.backends.cudnn.benchmark = True  # choose the fastest algorithm for the shape
    torch.backends.cudnn.allow_tf32 = mode.precision == "TF32"
    torch.backends.cuda.matmul.allow_tf32 = mode.precision == "TF32"
    model = Plain(net)
    if mode.how == "compiled":
        torch._dynamo.reset()
        model = torch.compile(model, dynamic=False)
    if mode.precision != "bf16":
        return model

    def rounded(x: Tensor, t: Tensor) -> Tensor:
        # No weight is used twice, and a recorded graph must not read a copy made outside of it.
        with torch.autocast(device, torch.bfloat16, cache_enabled=False):
            return model(x, t).float()

    return rounded


def graphed(step: Callable[..., Any], inputs: Sequence[Tensor]) -> Callable[..., Any]:
    """Return a step as a CUDA graph, recorded for inputs of these shapes after some runs.

    The results of a call are overwritten by the next one.
    """
    own, stream = [x.clone() for x in inputs], torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            step(*own)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step(*own)

    def replay(*inputs: Tensor) -> Any:
        for mine, x in zip(own, inputs, strict=True):
            mine.copy_(x)
        graph.replay()
        return results

    return replay
