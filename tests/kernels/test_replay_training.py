"""Training steps that replay: the weights are those of eager training, bit by bit."""

import itertools
from functools import partial

import numpy as np
import pytest
from builders import WIDE, random_unet

import minddpm
from minddpm import autodiff as F
from minddpm import backend, nn, random
from minddpm.replay import replayed_training

minddpm.set_backend("numba")

from minddpm.kernels.cpu import record, recorder  # noqa: E402

MODELS = {
    "wide": {},
    "small": {**minddpm.SMALL, "sample_size": 8},
    "cosines first": {"flip_sin_to_cos": True, "freq_shift": 0},
    "without middle": {"mid_block_type": None},
    "dropout": {"dropout": 0.2},
    "classes": {"num_class_embeds": 4},
    "dropout and classes": {"dropout": 0.2, "num_class_embeds": 3},
}
EAGER = {  # NumPy computes a part of them
    "narrow": {"block_out_channels": (18, 42), "norm_num_groups": 6, "attention_head_dim": 6},
    "scale and shift": {"resnet_time_scale_shift": "scale_shift"},
}
DIFFUSION = minddpm.GaussianDiffusion(minddpm.schedules.linear(1000))


pytestmark = pytest.mark.usefixtures("numba_with_its_threads")


class Training:
    """Steps of Adam, with a model that replays or not; images and t are others in each step."""

    seeded = True

    def __init__(self, unet, replay, diffusion=DIFFUSION, loss="simple"):
        self.optimizer = nn.Adam(unet.train().parameters(), lr=1e-3)
        self.model = replayed_training(unet, self.optimizer.flat) if replay else unet
        self.unet, self.diffusion, self.loss, self.steps = unet, diffusion, loss, 0

    def losses(self, N):
        if self.seeded:
            minddpm.manual_seed(0, self.steps)
        x0 = random.normal((N, 8, 8, 1), 0, random.CHECK, self.steps).clip(-1, 1)
        t = np.array([(37 * n + 91 * self.steps + 5) % 1000 for n in range(N)])
        noise = random.normal(x0.shape, 0, random.NOISE, self.steps)
        model = self.model
        if classes := getattr(self.unet, "config", {}).get("num_class_embeds"):
            labels = np.array([(n + self.steps) % classes for n in range(N)])
            model = partial(model, class_labels=labels)
        return self.diffusion.training_losses(model, x0, t, noise, self.loss)

    def step(self, N):
        losses = self.losses(N)
        losses.mean().backward()
        self.optimizer.step(1.0)
        self.optimizer.zero_grad()
        self.steps += 1
        return losses.data

    def stages(self):
        """Return what each shape's halves do now, such as "replay"."""
        records = self.model._records.of_key.values()
        return [r._call._run.__name__.strip("_") for r in records]


def check(config, batches, **changes):
    """Check that the steps give equal losses and weights; return the replaying training."""
    eager, replay = (
        Training(random_unet(config, scale=0.1), replay, **changes) for replay in (False, True)
    )
    for N in batches:
        expected, result = eager.step(N), replay.step(N)
        assert result.tobytes() == expected.tobytes()
        assert replay.optimizer.flat.data.tobytes() == eager.optimizer.flat.data.tobytes()
    return replay


@pytest.mark.parametrize("N", [1, 2, 7, 16])
@pytest.mark.parametrize("name", [*MODELS, *EAGER])
def test_weights_are_those_of_eager_training(name, N):
    training = check({**WIDE, **(MODELS | EAGER)[name]}, [N] * 6)
    if name in MODELS:
        assert training.stages() == ["replay"]


def test_each_shape_is_recorded():
    training = check(WIDE, [2, 3] * 6 + [5])
    assert training.stages() == ["replay", "replay", "second"]


def test_the_bound_and_a_learned_variance():
    diffusion = minddpm.GaussianDiffusion(minddpm.schedules.cosine(1000), variance="learned_range")
    config = {**WIDE, "out_channels": 2}
    for loss in ("hybrid", "vlb"):
        assert check(config, [4] * 6, diffusion=diffusion, loss=loss).stages() == ["replay"]


def test_any_number_of_threads_gives_the_same_weights():
    results = set()
    for n in (1, 2, 3, 4):
        backend.set_threads(n)
        training = check(WIDE, [5] * 5)
        assert training.stages() == ["replay"]
        results.add(training.optimizer.flat.data.tobytes())
    assert len(results) == 1


def test_another_number_of_threads_is_recorded_anew():
    eager, replay = (Training(random_unet(WIDE, scale=0.1), replay) for replay in (False, True))
    for n in (2, 4, 1):
        backend.set_threads(n)
        for _ in range(5):
            assert replay.step(5).tobytes() == eager.step(5).tobytes()
        assert replay.stages() == ["replay"]
        assert replay.optimizer.flat.data.tobytes() == eager.optimizer.flat.data.tobytes()


def test_the_third_step_is_a_replay():
    training = Training(random_unet(WIDE, scale=0.1), True)
    before = training.optimizer.flat.data.copy()
    for stage in ("second", "replay", "replay"):
        training.losses(2).mean().backward()
        training.optimizer.zero_grad()
        assert training.stages() == [stage]
    np.testing.assert_array_equal(training.optimizer.flat.data, before)


class CopiesWeights(F.Function):
    """x w + b, with a copy of w that NumPy makes; the backward is all kernels."""

    def forward(self, x, w, b):
        self.save(x, w)
        return backend.kernels.linear((x,), w.copy(), b)

    def backward(self, gy):
        x, w = self.saved
        (gx,), gw, gb = backend.kernels.linear_backward(gy, (x,), w)
        return gx, gw, gb


class WithNumPy(nn.Module):
    """A model of which NumPy computes a part."""

    def __init__(self, part):
        self.layer, self.part = nn.Linear(1, 1), part

    def forward(self, x, t):
        w, b = self.layer.weight, self.layer.bias
        x = F.Tensor(x * 2 if self.part == "inputs" else x)
        if self.part == "weights":
            return F.silu(CopiesWeights()(x, w, b))
        y = F.silu(F.linear(x, w, b))
        return F.silu(y * 2) if self.part == "activations" else y


@pytest.mark.parametrize("part", ["weights", "inputs", "activations", "nothing"])
def test_what_numpy_computes_between_the_tasks_is_not_lost(part):
    models = []
    for replay in (False, True):
        minddpm.manual_seed(0)
        models.append(Training(WithNumPy(part), replay))
    for _ in range(8):
        eager, replayed = (training.step(3) for training in models)
        assert replayed.tobytes() == eager.tobytes()
    assert models[1].stages() == ["replay" if part == "nothing" else "eager"]


def test_draws_after_a_step_are_those_after_an_eager_one():
    runs = []
    for replay in (False, True):  # one after the other: an eager draw sets the step of the next
        training, run = Training(random_unet(WIDE, dropout=0.2, scale=0.1), replay), []
        for _ in range(6):
            training.step(2)
            run.append((random.ambient(), training.optimizer.flat.data.tobytes()))
        runs.append(run)
    assert runs[0] == runs[1]
    assert runs[0][0][0][1] > 0  # numbers were drawn


def test_dropout_without_manual_seed_draws_on():
    flats = []
    for replay in (False, True):
        training = Training(random_unet(WIDE, dropout=0.2, scale=0.1), replay)
        training.seeded = False
        minddpm.manual_seed(5)
        for _ in range(5):
            training.step(2)
        flats.append(training.optimizer.flat.data.tobytes())
    assert flats[0] == flats[1]
    assert training.stages() == ["second"]  # recorded for the first draw only


@pytest.mark.parametrize("steps", range(6))
def test_two_graphs_at_once(steps):
    """The second one is eager, while the first one waits for its backward."""
    flats = []
    for replay in (False, True):
        training = Training(random_unet(WIDE, scale=0.1), replay)
        for _ in range(steps):
            training.step(3)
        one = training.losses(3).mean()
        training.steps += 1
        other = training.losses(3).mean()
        other.backward()
        one.backward()
        training.step(3)
        flats.append(training.optimizer.flat.data.tobytes())
    assert flats[0] == flats[1]


@pytest.mark.parametrize("steps", range(6))
def test_a_forward_without_backward_changes_nothing(steps):
    flats = []
    for replay in (False, True):
        training = Training(random_unet(WIDE, scale=0.1), replay)
        for _ in range(steps):
            training.step(3)
        training.losses(3)
        for _ in range(3):
            training.step(3)
        flats.append(training.optimizer.flat.data.tobytes())
    assert flats[0] == flats[1]


def test_the_planned_memory_is_not_larger_than_the_eager_peak():
    training, lifetimes = Training(random_unet(WIDE, scale=0.1), False), record.Lifetimes()
    with recorder.recorded_by(lifetimes):
        training.losses(4).mean().backward()
    ends = [len(lifetimes.ends) if end is None else end for end in lifetimes.ends]
    sizes = [-(-size // 64) * 64 for size in lifetimes.sizes]
    alive = (
        [size for j, size in enumerate(sizes[: i + 1]) if ends[j] > i] for i in range(len(sizes))
    )
    _, total = lifetimes.plan()
    assert total <= 1.05 * max(map(sum, alive))
    assert len(list(itertools.chain(sizes))) > 100  # the step makes many arrays
