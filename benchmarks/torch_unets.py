"""The same UNet in PyTorch (eager in both layouts, torch.compile), OpenVINO and ONNX Runtime.

The network is diffusers' UNet2DModel. Each mode uses what its documentation recommends for a CPU:
inference mode, fused Adam, frozen weights for the compiler, the latency hint for OpenVINO.
"""

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DModel

import minddpm
from torch_operations import images, nhwc
from unet_problem import CLIP, DECAY, LR, Problem, T, weights

Tensor = torch.Tensor
Predict = Callable[[Tensor, Tensor], Tensor]


def layout(mode: str) -> torch.memory_format:
    return torch.contiguous_format if mode == "PyTorch NCHW" else torch.channels_last


def their_unet(p: Problem, mode: str) -> UNet2DModel:
    net = UNet2DModel(**p.config)
    net.load_state_dict({name: torch.from_numpy(w) for name, w in weights(p).items()})
    return net.to(memory_format=layout(mode))


class Plain(torch.nn.Module):
    """The UNet as a module that returns a tensor, for the exporters."""

    def __init__(self, net: UNet2DModel):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.net(x, t, return_dict=False)[0]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the output of compilers and exporters."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def predictor(mode: str, p: Problem, x: Tensor, t: Tensor) -> Predict:
    """Return eps(x, t) for inference, compiled for the shape of x."""
    net = Plain(their_unet(p, mode)).eval().requires_grad_(False)
    if mode in ("PyTorch NCHW", "PyTorch channels_last"):
        return net
    if mode == "torch.compile":
        return compiled(net, x, t)
    return {"OpenVINO": openvino, "ONNX Runtime": onnx_runtime}[mode](net, x, t)


def compiled(net: Plain, x: Tensor, t: Tensor) -> Predict:
    """Compile with frozen weights, so that the compiler can change their layout."""
    import torch._inductor.config as inductor

    torch._dynamo.reset()
    predict = torch.compile(net, dynamic=False)
    with quiet(), torch.no_grad(), inductor.patch(freezing=True):
        predict(x, t)
    return predict


def openvino(net: Plain, x: Tensor, t: Tensor) -> Predict:
    import openvino as ov

    with quiet(), torch.no_grad():
        model = ov.convert_model(net, example_input=(x, t))
    shapes = {model.inputs[0]: list(x.shape), model.inputs[1]: list(t.shape)}
    model.reshape(shapes)
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    request = ov.Core().compile_model(model, "CPU", settings).create_infer_request()

    def predict(x: Tensor, t: Tensor) -> Tensor:
        # share_inputs avoids a copy; the result is copied because the next call overwrites it
        result = request.infer([x.numpy(), t.numpy()], share_inputs=True)
        return torch.from_numpy(result[0])

    return predict


def onnx_runtime(net: Plain, x: Tensor, t: Tensor) -> Predict:
    import onnxruntime

    with quiet(), torch.no_grad(), tempfile.TemporaryDirectory() as directory:
        file = str(Path(directory, "unet.onnx"))
        torch.onnx.export(net, (x, t), file, input_names=["x", "t"], dynamo=True, verbose=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(file, options, ["CPUExecutionProvider"])

    def predict(x: Tensor, t: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"x": x.numpy(), "t": t.numpy()})[0])

    return predict


def their_inference(task: str, mode: str, p: Problem) -> Callable[..., np.ndarray]:
    own = torch.channels_last if mode in ("PyTorch channels_last", "torch.compile") else None
    convert = images(own or torch.contiguous_format)
    x, t = convert(p.x0), torch.from_numpy(p.t)
    with torch.no_grad():
        predict = predictor(mode, p, x, t)

    # Compiled code must run in the gradient mode in which it was compiled.
    no_gradient = torch.no_grad if mode == "torch.compile" else torch.inference_mode

    def forward() -> np.ndarray:
        with no_gradient():
            return nhwc(predict(x, t)).numpy()

    # x_{t-1} = k0 pred_x0 + kx x_t + sigma z for the first step from T - 1
    d = minddpm.GaussianDiffusion(minddpm.schedules.linear(T))
    px, po = float(d.pred_x0_coef1[-1]), float(d.pred_x0_coef2[-1])
    k0, kx = float(d.posterior_mean_coef1[-1]), float(d.posterior_mean_coef2[-1])
    sigma = float(d.posterior_variance[-1]) ** 0.5
    last = torch.full((p.batch,), T - 1)

    def sample(z: np.ndarray | None = None) -> np.ndarray:
        with no_gradient():
            noise = torch.randn_like(x) if z is None else convert(z)
            pred_x0 = (px * x + po * predict(x, last)).clamp_(-1, 1)
            return nhwc(k0 * pred_x0 + kx * x + sigma * noise).numpy()

    return sample if task == "sample" else forward


def their_train(mode: str, p: Problem) -> Callable[[], tuple[float, float]]:
    net = Plain(their_unet(p, mode)).train()
    parameters = list(net.parameters())
    if mode == "torch.compile":
        torch._dynamo.reset()
        net = torch.compile(net, dynamic=False)
    convert = images(layout(mode))
    x0, noise, t = convert(p.x0), convert(p.noise), torch.from_numpy(p.t)
    d = minddpm.GaussianDiffusion(minddpm.schedules.linear(T))
    tables = (d.sqrt_alphas_cumprod, d.sqrt_one_minus_alphas_cumprod)
    a, b = (torch.from_numpy(table.astype(np.float32)) for table in tables)
    optimizer = torch.optim.Adam(parameters, LR, fused=True)
    average = [q.detach().clone() for q in parameters]
    current = [q.detach() for q in parameters]

    def train() -> tuple[float, float]:
        x_t = a[t].view(-1, 1, 1, 1) * x0 + b[t].view(-1, 1, 1, 1) * noise
        loss = torch.nn.functional.mse_loss(net(x_t, t), noise)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        optimizer.zero_grad()
        torch._foreach_lerp_(average, current, 1 - DECAY)
        return loss.item(), norm.item()

    return train


def build_theirs(mode: str, task: str, p: Problem) -> Callable[..., Any]:
    """Return this mode's implementation, not yet verified."""
    torch.manual_seed(0)
    return their_train(mode, p) if task == "train" else their_inference(task, mode, p)
