"""Gradients in buckets: each sum begins as soon as its bucket is complete, and changes no bit.

No test needs a second rank: stepping.Doubled does the work of one.
"""

from functools import partial

import numpy as np
import pytest
import stepping
from builders import TINY, WIDE, random_unet
from stepping import CASES, IN_PART, Doubled, check_steps, eager, one_bucket, stages

import minddpm
from minddpm import parallel
from minddpm.autodiff.graph import Function
from minddpm.nn.flat import FlatParameters
from minddpm.training import TrainingDivergedError, buckets

minddpm.set_backend("numba")
pytestmark = pytest.mark.usefixtures("numba_with_its_threads")


@pytest.fixture
def trainer(monkeypatch, tmp_path):
    """Return trainer(case, ...), whose trainers are the first of two ranks."""
    monkeypatch.setattr(parallel, "world", Doubled)
    return partial(stepping.trainer, WIDE, tmp_path)


@pytest.mark.parametrize(
    ("case", "options"),
    [(case, {}) for case in ("dropout and classes", "muon", *IN_PART)]
    + [("dropout", {"accumulate": 2})],
)
def test_buckets_and_replay_change_no_bit(trainer, case, options):
    made = trainer(case, batch=8, **options)
    check_steps(made, eager(one_bucket(trainer(case, batch=8, **options))), 5)
    assert stages(made) == ["eager" if case in IN_PART else "replay"]


@pytest.mark.parametrize("case", ["dropout and classes", "muon"])
def test_the_first_sum_begins_long_before_the_backward_ends(trainer, monkeypatch, case):
    made, right = trainer(case), Function.run_backward
    events = made.world.events

    def run_backward(*args):
        right(*args)
        events.append(("backward", None))

    monkeypatch.setattr(Function, "run_backward", run_backward)
    made.train_step()
    names = [name for name, _ in events]
    begun = [i for i, name in enumerate(names) if name == "begin"]
    ran = names.count("backward")
    assert len(begun) == buckets.COUNT
    assert names[begun[0] :].count("backward") > ran / 3
    assert names[begun[-2] :].count("backward") > 1
    assert names[-buckets.COUNT :] == ["end"] * buckets.COUNT


@pytest.mark.parametrize(("case", "accumulate"), [("plain", 1), ("muon", 2), ("hybrid", 1)])
def test_a_bucket_is_complete_when_its_sum_begins(trainer, case, accumulate):
    """In the eager step, in the recorded one and in a replay; the norm is that of the sums."""
    made, expected = trainer(case, batch=8, accumulate=accumulate), trainer(case, batch=8)
    eager(one_bucket(expected))
    for _ in range(4):
        sums = []
        for each in (made, expected):
            each.world.events.clear()
            squared_norm = each.train_step().squared_norm
            begun = [x for name, x in each.world.events if name == "begin"]
            sums.append(2.0 * np.concatenate(begun))
            np.testing.assert_allclose(squared_norm, (sums[-1] ** 2).sum(), rtol=1e-6)
        np.testing.assert_allclose(*sums, rtol=1e-2, atol=1e-3 * abs(sums[1]).max())


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_loss_scale_changes_no_weight(trainer, accumulate):
    made, expected = (trainer("dropout", batch=8, accumulate=accumulate) for _ in range(2))
    made.loss_scale.needed = lambda: True  # as in half precision
    for _ in range(3):
        norms = [each.train_step().squared_norm for each in (made, expected)]
        np.testing.assert_array_equal(*norms)
    np.testing.assert_array_equal(made.optimizer.flat.data, expected.optimizer.flat.data)


def test_a_training_that_diverges_in_ranks_names_its_gradients(trainer):
    made = trainer()
    made.unet.conv_out.bias.data[...] = np.inf
    with pytest.raises(TrainingDivergedError, match=r"the weight conv_out\.bias is not finite"):
        made.row([made.train_step()])
    # All buckets were computed, summed and set to zero again.
    assert not made.optimizer.flat.grad.any()
    assert [name for name, _ in made.world.events].count("end") == 2 * buckets.COUNT


@pytest.mark.parametrize("count", [1, 3, 4, 1000])
def test_buckets_cover_every_parameter_once(count):
    flat = FlatParameters(random_unet(WIDE).parameters())
    ranges, groups = zip(*flat.buckets(count), strict=True)
    assert np.concatenate([np.arange(flat.grad.size)[r] for r in ranges]).tolist() == [
        *range(flat.grad.size)
    ]
    assert [id(p) for group in groups for p in group] == [*map(id, flat.parameters)]
    for part, group in zip(ranges, groups, strict=True):
        flat.grad[...] = 0
        flat.grad[part] = 1
        assert all(p.grad.all() for p in group)
    assert len(ranges) == count or count == 1000 > len(ranges) > 4


def test_the_backward_order_has_every_parameter_once():
    for case in ("plain", "classes"):
        unet = random_unet(TINY, **CASES[case][0])
        ordered = unet.in_backward_order()
        assert sorted(map(id, ordered)) == sorted(map(id, unet.parameters()))
        assert ordered[:2] == [unet.conv_out.bias, unet.conv_out.weight]
