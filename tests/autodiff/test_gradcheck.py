"""Every operation, every layer and the whole UNet against finite differences in float64."""

import numpy as np
import pytest

from minddpm import (
    SMALL,
    GaussianDiffusion,
    Tensor,
    UNet2D,
    backend,
    manual_seed,
    nn,
    replay,
    schedules,
)
from minddpm import autodiff as F
from minddpm.autodiff import GradientError, gradcheck, layers, pointwise
from minddpm.baselines.gan.model import SpectralNorm
from minddpm.baselines.vae.model import DiscretizedGaussian
from minddpm.diffusion.bound import BoundTerm
from minddpm.kernels import reference
from minddpm.kernels.reference.norm import normalised, spread
from minddpm.models.blocks import Attention, ResnetBlock2D

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.standard_normal(shape)


PAD = ((0, 1), (2, 0))


def bound_term(output):
    """The bound at three timesteps, one of them 0; see also tests/diffusion/test_bound.py."""
    d = GaussianDiffusion(schedules.linear(30), variance="learned_range", clip_x0=False)
    x0, x_t = np.full((3, 2, 2, 1), 1 / 255), np.linspace(-1, 2, 12).reshape(3, 2, 2, 1)
    x0, x_t = backend.xp.asarray(x0), backend.xp.asarray(x_t)
    return BoundTerm(d, x0, x_t, np.array([0, 1, 20]), fixed_mean=False)(output)


OPERATIONS = {
    "add": (lambda a, b: a + b, [normal(2, 3), normal(3)]),
    "sub": (lambda a, b: a - b, [normal(2, 3), normal(3)]),
    "mul": (lambda a, b: a * b, [normal(2, 3), normal(3)]),
    "div": (lambda a, b: a / b, [normal(2, 3), normal(3) + 4]),
    "neg": (lambda a: -a, [normal(4)]),
    "power": (lambda a: a**3, [normal(4)]),
    "power of a half": (lambda a: a**0.5, [normal(4) ** 2 + 1]),
    "exp": (F.exp, [normal(4)]),
    "log": (F.log, [normal(4) ** 2 + 1]),
    "silu": (F.silu, [normal(4)]),
    "tanh": (F.tanh, [normal(4)]),
    "softplus": (F.softplus, [normal(4)]),
    "log_softmax": (F.log_softmax, [normal(2, 4)]),
    "cross_entropy": (lambda x: F.cross_entropy(x, np.array([2, 0])), [normal(2, 3)]),
    "binary_cross_entropy": (
        lambda x: F.binary_cross_entropy(x, backend.xp.linspace(0, 1, 4)),
        [normal(4)],
    ),
    "spectral norm": (
        lambda w: SpectralNorm(backend.xp.asarray([0.6, -0.8]))(w),
        [normal(1, 2, 3, 2)],
    ),
    "discretized Gaussian with black and white pixels": (
        lambda mean, log_sigma: DiscretizedGaussian(backend.xp.asarray([-1, 1 / 255, 1.0]))(
            mean, log_sigma
        ),
        [normal(2, 3), normal(1)],
    ),
    "mean_squared_errors": (
        lambda x: F.mean_squared_errors(x, backend.xp.linspace(-1, 1, 12).reshape(3, 2, 2)),
        [normal(3, 2, 2)],
    ),
    "sum": (F.sum, [normal(2, 3)]),
    "sum over axes": (lambda x: x.sum(axis=(0, -1)), [normal(2, 3, 4)]),
    "mean": (F.mean, [normal(2, 3)]),
    "mean with keepdims": (lambda x: x.mean(axis=1, keepdims=True), [normal(2, 3)]),
    "reshape": (lambda x: x.reshape(3, -1), [normal(2, 6)]),
    "slice": (lambda x: x[1, ..., None, 1:], [normal(2, 3, 4)]),
    "concat": (lambda a, b: F.concat([a, b, a], axis=1), [normal(2, 3), normal(2, 1)]),
    "take_rows": (lambda w: F.take_rows(w, np.array([2, 0, 2])), [normal(4, 3)]),
    "linear": (F.linear, [normal(2, 3, 5), normal(5, 4), normal(4)]),
    "linear of two parts": (
        lambda x1, x2, w, b: F.linear((x1, x2), w, b),
        [normal(2, 3, 2), normal(2, 3, 3), normal(5, 4), normal(4)],
    ),
    "linear with extra": (F.linear, [normal(2, 5), normal(5, 4), normal(4), normal(2, 4)]),
    "linears": (
        lambda x, w1, w2, b1, b2: F.concat(F.linears(x, (w1, w2), (b1, b2)), axis=1),
        [normal(2, 5), normal(5, 4), normal(5, 3), normal(4), normal(3)],
    ),
    "upsample_conv2d": (
        F.upsample_conv2d,
        [normal(2, 3, 2, 3), normal(3, 3, 3, 2), normal(2)],
    ),
    "norm_silu_conv2d": (
        lambda x, g, h, w, b: F.norm_silu_conv2d(x, g, h, 2, 1e-5, w, b),
        [normal(2, 3, 4, 6), normal(6), normal(6), normal(3, 3, 6, 2), normal(2)],
    ),
    "norm_silu_conv2d of two parts, with shift and extra": (
        lambda x1, x2, g, h, w, b, shift, extra: F.norm_silu_conv2d(
            (x1, x2), g, h, 2, 1e-5, w, b, shift, extra
        ),
        [
            *(normal(2, 3, 4, 2), normal(2, 3, 4, 4), normal(6), normal(6), normal(3, 3, 6, 2)),
            *(normal(2), normal(2, 2), normal(2, 3, 4, 2)),
        ],
    ),
    "norm_silu_conv2d with a linear layer of two parts": (
        lambda x, g, h, w, b, x1, x2, w_2, b_2: F.norm_silu_conv2d(
            x, g, h, 2, 1e-5, w, b, extra=((x1, x2), w_2, b_2)
        ),
        [
            *(normal(2, 3, 4, 4), normal(4), normal(4), normal(3, 3, 4, 2), normal(2)),
            *(normal(2, 3, 4, 2), normal(2, 3, 4, 3), normal(5, 2), normal(2)),
        ],
    ),
    "conv2d 3x3": (
        lambda x, w, b: F.conv2d(x, w, b, padding=1),
        [normal(2, 5, 4, 3), normal(3, 3, 3, 2), normal(2)],
    ),
    "conv2d 1x1": (F.conv2d, [normal(2, 5, 4, 3), normal(1, 1, 3, 2), normal(2)]),
    "conv2d stride 2": (
        lambda x, w, b: F.conv2d(x, w, b, stride=2, padding=1),
        [normal(2, 7, 6, 3), normal(3, 3, 3, 2), normal(2)],
    ),
    "conv2d asymmetric": (
        lambda x, w, b: F.conv2d(x, w, b, stride=2, padding=PAD),
        [normal(1, 6, 5, 2), normal(3, 2, 2, 3), normal(3)],
    ),
    "conv_transpose2d 4x4, stride 2": (
        lambda x, w, b: F.conv_transpose2d(x, w, b, stride=2, padding=1),
        [normal(2, 3, 2, 3), normal(4, 4, 2, 3), normal(2)],
    ),
    "conv_transpose2d of a tensor with another use": (
        # In this order, in which the mean's backward comes before: see topological_order.
        lambda x, w, b: (h := F.silu(x)).mean() + F.conv_transpose2d(h, w, b),
        [normal(2, 3, 2, 3), normal(2, 3, 2, 3), normal(2)],
    ),
    "conv_transpose2d of one pixel": (
        F.conv_transpose2d,
        [normal(2, 1, 1, 3), normal(3, 3, 2, 3), normal(2)],
    ),
    "conv_transpose2d asymmetric": (
        lambda x, w, b: F.conv_transpose2d(x, w, b, stride=2, padding=PAD),
        [normal(1, 3, 4, 2), normal(3, 2, 3, 2), normal(3)],
    ),
    "group_norm": (
        lambda x, w, b: F.group_norm(x, w, b, 2, 1e-5),
        [normal(2, 3, 4, 6), normal(6), normal(6)],
    ),
    "group_norm_silu": (
        lambda x, w, b: F.group_norm_silu(x, w, b, 3, 1e-5),
        [normal(2, 3, 4, 6), normal(6), normal(6)],
    ),
    "attention": (lambda q, k, v: F.attention(q, k, v, 2), [normal(2, 5, 6) for _ in range(3)]),
    "dropout": (lambda x: F.dropout(x, 0.4, (1, 2, 3)), [normal(2, 5, 3)]),
    "upsample_nearest": (F.upsample_nearest, [normal(2, 3, 2, 3)]),
    "bound": (bound_term, [normal(3, 2, 2, 2)]),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation(any_backend, name):
    function, inputs = OPERATIONS[name]
    assert gradcheck(function, inputs) < 1e-6


def test_no_operation_is_left_out():
    """A new Function without a line in OPERATIONS fails here."""
    seen = set()
    original = F.Function.__call__

    def spy(self, *inputs):
        seen.add(type(self))
        return original(self, *inputs)

    F.Function.__call__ = spy
    try:
        for function, inputs in OPERATIONS.values():
            function(*(Tensor(x) for x in inputs))
    finally:
        F.Function.__call__ = original

    def subclasses(cls):
        return {cls}.union(*(subclasses(c) for c in cls.__subclasses__()))

    ours = {c for c in subclasses(F.Function) if c.__module__.startswith("minddpm.")}
    # A replayed model's gradients are those of its own operations (test_replay_training.py).
    assert ours - seen == {F.Function, pointwise.Binary, replay._ModelCall}


CONFIG = {
    "norm_num_groups": 2,
    "norm_eps": 1e-5,
    "temb_channels": 5,
    "dropout": 0.0,
    "attention_head_dim": 2,
    "resnet_time_scale_shift": "default",
}


def resnet(**changes):
    block = ResnetBlock2D(4, 6, {**CONFIG, **changes}).train()
    temb = Tensor(normal(2, 5))
    return block, lambda x: block(x, block.time_emb_proj(temb)), normal(2, 3, 4, 4)


def attention_block():
    block = Attention(4, CONFIG, groups=2)
    return block, block, normal(2, 3, 2, 4)


def embedding():
    layer = nn.Embedding(3, 4)
    return layer, lambda x: layer(np.array([0, 2, 2])) * x, normal(3, 4)


LAYERS = {
    "Conv2d": lambda: (layer := nn.Conv2d(3, 4, 3, padding=1), layer, normal(2, 4, 5, 3)),
    "ConvTranspose2d": lambda: (
        layer := nn.ConvTranspose2d(3, 4, 4, stride=2, padding=1),
        layer,
        normal(2, 3, 2, 3),
    ),
    "Linear": lambda: (layer := nn.Linear(3, 4), layer, normal(2, 3)),
    "Embedding": embedding,
    "GroupNorm": lambda: (layer := nn.GroupNorm(2, 4), layer, normal(2, 3, 3, 4)),
    "GroupNorm with SiLU": lambda: (layer := nn.GroupNorm(2, 4), layer.silu, normal(2, 3, 3, 4)),
    "ResnetBlock2D": resnet,
    "ResnetBlock2D scale_shift": lambda: resnet(resnet_time_scale_shift="scale_shift"),
    "Attention": attention_block,
}


def randomise(module):
    """Zero-initialised weights would hide the layers before them."""
    rng = np.random.default_rng(1)  # its own generator: independent of the tests before
    for p in module.astype("float64").parameters():
        p.data = p.data + backend.xp.asarray(0.3 * rng.standard_normal(p.shape))


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name):
    module, function, x = LAYERS[name]()
    randomise(module)
    assert gradcheck(lambda x, *_: function(x), [x, *module.parameters()]) < 1e-6


@pytest.mark.parametrize("changes", [{}, {"resnet_time_scale_shift": "scale_shift"}])
def test_whole_unet(any_backend, changes):
    config = {**SMALL, **changes, "block_out_channels": (8, 16, 16), "sample_size": 8}
    config |= {"layers_per_block": 1, "norm_num_groups": 4, "num_class_embeds": 3}
    unet = UNet2D(**config)
    randomise(unet)
    t, labels = np.array([0, 700]), np.array([2, 1])
    # Two forwards for each parameter: on a slow backend, every eighth parameter.
    parameters = unet.parameters()[:: 8 if any_backend == "cupy" else 1]
    x = np.random.default_rng(2).standard_normal(
        (2, 8, 8, 1)
    )  # the same on all backends and in any test order
    error = gradcheck(lambda x, *_: unet(x, t, labels), [x, *parameters])
    assert error < 1e-6


def test_dropout_masks_are_those_of_the_forward():
    """Under a fixed step of the stream the mask is fixed, so dropout is linear in x."""
    layer = nn.Dropout(0.5).train()

    def function(x):
        manual_seed(3)
        return layer(x)

    assert gradcheck(function, [normal(4, 50)]) < 1e-6
    y = function(Tensor(np.ones((100, 100))))
    nonzero = (y.data != 0).mean()
    assert abs(nonzero - 0.5) < 0.02
    assert set(np.unique(y.data)) == {0.0, 2.0}
    assert layer.eval()(y) is y


# --- a wrong backward is caught ------------------------------------------------------------------


right_backward = reference.group_norm_backward


def without_the_variance_term(gy, x, weight, mean, rstd, groups, partial=None):
    """group_norm's backward without the term from the variance."""
    gx, gw, gb = right_backward(gy, x, weight, mean, rstd, groups)
    n = normalised(x, mean, rstd)
    gn = reference.norm._group_mean(gy * weight * n, groups)
    return gx + n * spread(gn * rstd, x), gw, gb


def test_a_planted_wrong_backward_is_caught(monkeypatch):
    function, inputs = OPERATIONS["group_norm"]
    monkeypatch.setattr("minddpm.kernels.reference.group_norm_backward", without_the_variance_term)
    with pytest.raises(GradientError, match="input 0"):
        gradcheck(function, inputs)


class Shifted(layers.UpsampleNearest):
    def backward(self, gy):
        return (super().backward(gy)[0][:, ::-1].copy(),)


class SlightlyOff(pointwise.Exp):
    def backward(self, gy):
        return (super().backward(gy)[0] * 1.00001,)


class Nothing(pointwise.Exp):
    def backward(self, gy):
        return (gy * 0,)


class NotANumber(pointwise.Exp):
    def backward(self, gy):
        return (gy * np.nan,)


@pytest.mark.parametrize("wrong", [Shifted, SlightlyOff, Nothing, NotANumber])
def test_other_wrong_backwards_are_caught(wrong):
    with pytest.raises(GradientError):
        # Fixed numbers, independent of other draws in this file: along an unlucky direction an
        # error of 1e-5 in the gradient can be below 1e-6.
        gradcheck(lambda x: wrong()(x), [np.random.default_rng(0).standard_normal((1, 2, 2, 3))])


def test_ones_would_have_missed_it():
    """Why the covector is random: for c = (1, 1, ...) the gradient of softmax is zero."""

    def softmax(x):
        e = F.exp(x)
        return e / e.sum(axis=-1, keepdims=True)

    x = Tensor(normal(3, 4), requires_grad=True)
    softmax(x).backward(np.ones((3, 4)))
    np.testing.assert_allclose(x.grad, 0, atol=1e-15)
    assert gradcheck(softmax, [normal(3, 4)]) < 1e-6


def test_gradcheck_wants_float64():
    p = nn.Parameter(np.ones(3, np.float32))
    with pytest.raises(ValueError, match="float64"):
        gradcheck(F.exp, [p])
