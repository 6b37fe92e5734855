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
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import minddpm
from minddpm.gpucheck.pytorch import (
    Plain,
    Predict,
    Tensor,
    TrainingStep,
    images,
    sampling_step,
    their_unet,
)
from torch_operations import nhwc
from unet_problem import CLIP, DECAY, LR, Problem, T, our_unet

IN_LAYOUT = ("PyTorch NCHW", "PyTorch channels_last", "torch.compile")


def layout(mode: str) -> str:
    return "NCHW" if mode == "PyTorch NCHW" else "channels_last"


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
    net = Plain(their_unet(our_unet(p), layout(mode))).eval().requires_grad_(False)
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
    convert = partial(images, layout=layout(mode if mode in IN_LAYOUT else IN_LAYOUT[0]))
    x, t = convert(p.x0), torch.from_numpy(p.t)
    with torch.no_grad():
        predict = predictor(mode, p, x, t)

    # Compiled code must run in the gradient mode in which it was compiled.
    no_gradient = torch.no_grad if mode == "torch.compile" else torch.inference_mode

    def forward() -> np.ndarray:
        with no_gradient():
            return nhwc(predict(x, t)).numpy()

    step = sampling_step(predict, minddpm.GaussianDiffusion(minddpm.schedules.linear(T)))

    def sample(z: np.ndarray | None = None) -> np.ndarray:
        with no_gradient():
            noise = torch.randn_like(x) if z is None else convert(z)
            return nhwc(step(x, noise)).numpy()

    return sample if task == "sample" else forward


def their_train(mode: str, p: Problem) -> Callable[[], tuple[float, float]]:
    net = their_unet(our_unet(p), layout(mode)).train()
    predict = Plain(net)
    if mode == "torch.compile":
        torch._dynamo.reset()
        predict = torch.compile(predict, dynamic=False)
    convert = partial(images, layout=layout(mode))
    x0, noise, t = convert(p.x0), convert(p.noise), torch.from_numpy(p.t)
    d = minddpm.GaussianDiffusion(minddpm.schedules.linear(T))
    step = TrainingStep(net, predict, d, lr=LR, clip=CLIP, decay=DECAY)

    def train() -> tuple[float, float]:
        loss, norm = step(x0, t, noise)
        return loss.item(), norm.item()

    return train


def build_theirs(mode: str, task: str, p: Problem) -> Callable[..., Any]:
    """Return this mode's implementation, not yet verified."""
    torch.manual_seed(0)
    return their_train(mode, p) if task == "train" else their_inference(task, mode, p)
