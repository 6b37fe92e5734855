"""nn.Muon: which parameters take which step, and where a checkpoint keeps them."""

import numpy as np
from builders import draw, host

import naive
from minddpm import backend, nn
from minddpm.training.loop import optimizer_state


class Layers(nn.Module):
    """Parameters of all kinds; a matrix with a side below 16 is not one of Muon's."""

    def __init__(self):
        super().__init__()
        self.norm = nn.GroupNorm(2, 16)
        self.wide = nn.Linear(16, 40)
        self.table = nn.Embedding(20, 16)
        self.narrow = nn.Linear(40, 15)
        self.conv = nn.Conv2d(4, 16, 3)


MATRICES = {"wide.weight": (16, 40), "conv.weight": (36, 16)}
LR, MOMENTUM, WEIGHT_DECAY = 0.1, 0.95, 0.2


def trained(kind, steps):
    """Return Layers with random weights after steps with random gradients, and the checkpoint."""
    layers = Layers()
    parameters = layers.parameters()
    shapes = [p.shape for p in parameters]
    for p, value in zip(parameters, draw(0, *shapes), strict=True):
        p.data = backend.xp.asarray(value)
    optimizer = kind(parameters, lr=LR, weight_decay=WEIGHT_DECAY)
    ema = nn.EMA(optimizer.flat)
    for step in range(steps):
        for p, value in zip(parameters, draw(1 + step, *shapes), strict=True):
            p.grad = backend.xp.asarray(value)
        optimizer.step(ema=ema)
    state = optimizer_state(layers, optimizer, ema)
    return layers, {group: {n: host(x) for n, x in xs.items()} for group, xs in state.items()}


def test_what_is_no_matrix_takes_a_step_of_adam(any_backend):
    _, muon = trained(nn.Muon, 3)
    _, adam = trained(nn.Adam, 3)
    assert muon.keys() == adam.keys()
    for group, arrays in adam.items():
        equal = {n for n, x in arrays.items() if np.array_equal(x, muon[group][n])}
        assert equal == arrays.keys() - MATRICES.keys(), group


def test_a_matrix_takes_a_step_of_muon(any_backend):
    """Its momentum is stored as m; v stays zero."""
    layers, state = trained(nn.Muon, 1)
    shapes = {name: p.shape for name, p in layers.named_parameters()}
    before, grads = (dict(zip(shapes, draw(i, *shapes.values()), strict=True)) for i in (0, 1))
    for name, shape in MATRICES.items():
        p, momentum = naive.muon(
            before[name].ravel(), grads[name].ravel(), np.zeros(before[name].size),
            [(0, *shape)], LR, MOMENTUM, WEIGHT_DECAY, 1.0,
        )  # fmt: skip
        np.testing.assert_allclose(state["raw"][name].ravel(), p, atol=2e-5)
        np.testing.assert_allclose(state["adam_m"][name].ravel(), momentum, atol=1e-6)
        assert not state["adam_v"][name].any()


def test_a_checkpoint_has_each_parameter_under_its_name(any_backend):
    """Muon moves matrices to the front of the flat buffer."""
    layers, state = trained(nn.Muon, 1)
    for name, p in layers.named_parameters():
        np.testing.assert_array_equal(state["raw"][name], host(p))
    assert list(state["raw"])[:2] == list(MATRICES)


def test_matrices_alone_or_none(any_backend):
    for shapes in ([(20, 16)], [(16,), (3,)]):
        layers = [nn.Linear(*shape) if len(shape) == 2 else None for shape in shapes]
        parameters = [
            nn.Parameter(backend.xp.ones(shape, "float32")) if layer is None else layer.weight
            for shape, layer in zip(shapes, layers, strict=True)
        ]
        optimizer = nn.Muon(parameters, lr=LR)
        for p in parameters:
            p.grad = backend.xp.ones(p.shape, "float32")
        before = [host(p).copy() for p in parameters]
        optimizer.step(1.0)
        for p, value in zip(parameters, before, strict=True):
            assert (host(p) < value).all()
