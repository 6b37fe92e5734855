"""--tensorboard: what TensorBoard reads of a run, and the sentence if it is not installed."""

import math
import sys

import pytest
from builders import tiny_run
from commands import QUICK, refused

from minddpm.commands.watching import watchers
from minddpm.training.run_directory import LOSS, read_loss


def test_it_is_not_installed(command, digits, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboard.summary", None)
    run = ["--data-dir", digits, "--out", "run", *QUICK, "--tensorboard"]
    refused(command("train_mnist", *run), "pip install tensorboard")
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_it_reads_the_numbers_of_the_log(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for steps in (4, 7):  # the second part goes on with the first
        loop = tiny_run(tmp_path / "run", steps=steps)
        loop.resume()
        loop.watchers = watchers(loop, 0, True)
        loop.train(progress=False)
        del loop
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    rows = read_loss(tmp_path / "run" / LOSS)
    for name in ("loss", "loss_q1", "loss_q4", "grad_norm", "lr"):
        expected = [(r["step"], r[name]) for r in rows if math.isfinite(r[name])]
        found = [(event.step, event.tensor_proto.float_val[0]) for event in events.Tensors(name)]
        assert [step for step, _ in found] == [step for step, _ in expected]
        for (_, value), (_, logged) in zip(found, expected, strict=True):
            assert value == pytest.approx(logged, rel=1e-5)
