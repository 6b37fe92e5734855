"""Replay on the CPU: bit-equal to eager calls, in memory planned once, and anew when it must be."""

import gc
import itertools
import weakref

import numpy as np
import pytest
from builders import WIDE, random_unet
from python_threads import at_once

import minddpm
from minddpm import backend, random

minddpm.set_backend("numba")

from minddpm.kernels.cpu import record, recorder  # noqa: E402

MODELS = {
    "wide": {},
    "small": {**minddpm.SMALL, "sample_size": 8},
    "cosines first": {"flip_sin_to_cos": True, "freq_shift": 0},
    "without middle": {"mid_block_type": None},
    "learned variance": {"out_channels": 2},
    "no class": {"num_class_embeds": 4},
}
EAGER = {  # NumPy computes a part of them
    "narrow": {"block_out_channels": (18, 42), "norm_num_groups": 6, "attention_head_dim": 6},
    "scale and shift": {"resnet_time_scale_shift": "scale_shift"},
    "centered": {"center_input_sample": True},
}


pytestmark = pytest.mark.usefixtures("numba_with_its_threads")


def inputs(N, size, i=0):
    x = random.normal((N, size, size, 1), i, random.CHECK)
    return x, np.array([(37 * n + 91 * i + 5) % 1000 for n in range(N)])


def recorded(model, shape=0):
    """Return the record that this Python thread replays; None if it calls the model."""
    return list(model._records.of_key.values())[shape]._calls.record


def check(model, function, N, size, calls=5):
    for i in range(calls):
        x, t = inputs(N, size, i)
        given = x.copy(), t.copy()
        result, expected = model(x, t), function(x, t)
        expected = getattr(expected, "data", expected)
        assert result.tobytes() == expected.tobytes(), f"call {i}"
        np.testing.assert_array_equal(x, given[0])
        np.testing.assert_array_equal(t, given[1])


@pytest.mark.parametrize("N", [1, 3, 16])
@pytest.mark.parametrize("name", [*MODELS, *EAGER])
def test_replayed_models_are_bit_equal_to_eager_ones(name, N):
    unet = random_unet({**WIDE, **(MODELS | EAGER)[name]}, scale=0.1)
    model = minddpm.replayed(unet)
    with minddpm.no_grad(), backend.kernels.constant_weights():
        check(model, unet, N, 8)
        if name in MODELS:
            assert recorded(model) is not None
        check(model, unet, N + 1, 8)  # another shape has a record of its own
        check(model, unet, N, 8)


def test_class_conditional_models_replay_for_any_labels():
    unet = random_unet({**WIDE, "num_class_embeds": 4}, scale=0.1)
    model = minddpm.replayed(unet)
    with minddpm.no_grad(), backend.kernels.constant_weights():
        for i in range(6):
            x, t = inputs(3, 8, i)
            labels = np.array([i % 4, 2, (i + 1) % 4])
            expected = unet(x, t, labels).data
            assert model(x, t, unet.class_embedding(labels)).tobytes() == expected.tobytes()
        assert recorded(model) is not None


def test_the_same_inputs_again_and_again():
    unet = random_unet(WIDE, scale=0.1)
    model = minddpm.replayed(unet)
    x, t = inputs(2, 8)
    with minddpm.no_grad(), backend.kernels.constant_weights():
        results = [model(x, t) for _ in range(4)]
        assert recorded(model) is not None
        assert len({result.tobytes() for result in results}) == 1
        model(*inputs(2, 8, 1))
        assert results[-1].tobytes() == results[0].tobytes()  # a copy: the next call changes none
        check(model, unet, 2, 8)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, t: backend.kernels.silu(x) * 2,
        lambda x, t: backend.kernels.silu(x + 1),
        lambda x, t: backend.kernels.silu(backend.kernels.silu(x) + np.float32(t[0])),
        lambda x, t: backend.kernels.silu(x.astype(np.float64)),
        lambda x, t: x,
    ],
)
def test_what_numpy_computes_between_the_tasks_is_not_lost(function):
    with backend.kernels.constant_weights():
        check(minddpm.replayed(function), function, 2, 8)
        model = minddpm.replayed(function)
        x, t = inputs(2, 8)
        for _ in range(4):  # the same inputs show no difference
            model(x, t)
        check(model, function, 2, 8)


def test_arrays_of_other_sizes_than_before_are_not_recorded():
    sizes = iter([7, 9, 11, 13, 15, 17, 19, 21, 23, 25])

    def function(x, t):
        backend.kernels.silu(np.ones(10 * next(sizes), np.float32))
        return backend.kernels.silu(x)

    with backend.kernels.constant_weights():
        check(minddpm.replayed(function), lambda x, t: backend.kernels.silu(x), 2, 8)


def test_changed_weights_are_recorded_anew():
    unet = random_unet(WIDE, scale=0.1)
    model = minddpm.replayed(unet)
    for _ in range(2):
        with minddpm.no_grad(), backend.kernels.constant_weights():
            check(model, unet, 2, 8)
            assert recorded(model) is not None
        check(model, unet, 2, 8)  # not constant here: eager, even if there is a record
        for p in unet.parameters():
            p.data *= np.float32(1.01)  # in place: at the same address
    with minddpm.no_grad(), backend.kernels.constant_weights():
        check(model, unet, 2, 8)
        unet.conv_out.weight.data = unet.conv_out.weight.data * np.float32(2)
        check(model, unet, 2, 8)


def test_another_number_of_threads_is_recorded_anew():
    unet = random_unet(WIDE, scale=0.1)
    model = minddpm.replayed(unet)
    x, t = inputs(5, 8)
    with minddpm.no_grad(), backend.kernels.constant_weights():
        results = set()
        for n in (2, 4, 1, 3):
            backend.set_threads(n)
            check(model, unet, 5, 8)
            results.add(model(x, t).tobytes())
            assert recorded(model) is not None
    assert len(results) == 1  # and the number changes no bit


def test_an_exception_leaves_an_eager_model():
    broken = [False, True, False, False, False]

    def function(x, t):
        y = backend.kernels.silu(x)
        if broken and broken.pop(0):
            raise KeyboardInterrupt
        return backend.kernels.silu(y)

    model = minddpm.replayed(function)
    with backend.kernels.constant_weights():
        model(*inputs(2, 8))
        with pytest.raises(KeyboardInterrupt):
            model(*inputs(2, 8, 1))
        check(model, function, 2, 8)
        assert recorded(model) is None


def test_python_threads_with_one_replayed_model():
    unet = random_unet(WIDE, scale=0.1)
    model = minddpm.replayed(unet)

    def sample(seed):
        results = []
        with minddpm.no_grad(), backend.kernels.constant_weights():
            for i in range(12):
                results.append(model(*inputs(2, 8, 100 * seed + i)).tobytes())
        return results

    works = [(sample, i) for i in range(4)]
    assert at_once(works) == [sample(i) for i in range(4)]


def test_the_planned_memory_is_not_larger_than_the_eager_peak():
    unet = random_unet(minddpm.SMALL, scale=0.1)
    for N in (1, 4):
        lifetimes = record.Lifetimes()
        with minddpm.no_grad(), backend.kernels.constant_weights():
            with recorder.recorded_by(lifetimes):
                result = unet(*inputs(N, 28))
            assert planned_without_overlap(lifetimes) <= 1.02 * peak(lifetimes)
        del result


def test_plans_of_random_lifetimes():
    for seed in range(200):
        draw = np.random.default_rng(seed)
        lifetimes = record.Lifetimes()
        n = draw.integers(1, 30)
        lifetimes.sizes = [int(s) for s in draw.integers(0, 1000, n)]
        ends = [int(draw.integers(i + 1, n + 1)) for i in range(n)]
        lifetimes.ends = [None if end == n else end for end in ends]
        assert planned_without_overlap(lifetimes) <= 1.5 * peak(lifetimes) + 64


def alive_at(lifetimes, i):
    """Return the arrays that are alive when array i has been made."""
    return [j for j in range(i + 1) if lifetimes.ends[j] is None or lifetimes.ends[j] > i]


def peak(lifetimes):
    sizes = [-(-size // 64) * 64 for size in lifetimes.sizes]
    return max(sum(sizes[j] for j in alive_at(lifetimes, i)) for i in range(len(sizes)))


def planned_without_overlap(lifetimes):
    """Check that arrays alive at once do not overlap, and return the bytes of the plan."""
    starts, total = lifetimes.plan()
    for i in range(len(starts)):
        places = sorted((starts[j], starts[j] + lifetimes.sizes[j]) for j in alive_at(lifetimes, i))
        assert all(one[1] <= other[0] for one, other in itertools.pairwise(places))
        assert all(end <= total for _, end in places)
    return total


def test_small_sums_are_tasks_too():
    w, extra = (random.normal(s, 0, random.CHECK) for s in ((1, 4), (2, 8, 8, 4)))

    def function(x, t):
        y = backend.kernels.linear((x,), w, np.zeros(4, np.float32), extra)
        return backend.kernels.add(y, y)

    model = minddpm.replayed(function)
    with backend.kernels.constant_weights():
        check(model, function, 2, 8)
        assert recorded(model) is not None


def test_a_model_is_freed_with_its_last_reference():
    """Its planned memory would otherwise stay until Python collects cycles."""
    model = minddpm.replayed(random_unet(WIDE).eval())
    with backend.kernels.constant_weights():
        for i in range(4):
            model(*inputs(2, 8, i))
        record = recorded(model)
        assert record is not None
    freed = weakref.ref(record)
    gc.disable()
    try:
        del model, record
        assert freed() is None
    finally:
        gc.enable()
