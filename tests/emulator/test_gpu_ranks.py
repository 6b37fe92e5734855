"""Training in ranks on the stand-in for CuPy, whose NCCL adds up by MPI."""

from pathlib import Path

import numpy as np
import pytest
import ranks
import stepping
from builders import TINY
from cuda_checks import needs_compiler
from stepping import Doubled, check_steps, eager, one_bucket, stages

from minddpm import backend, parallel

pytestmark = needs_compiler
PROGRAM = Path(__file__).parents[1] / "training" / "rank_program.py"


@pytest.mark.usefixtures("xp")
@pytest.mark.parametrize("precision", ["float32", "fp16"])
def test_buckets_and_graphs_change_no_bit(monkeypatch, tmp_path, precision):
    """In half precision the sums are those of scaled gradients."""
    monkeypatch.setattr(parallel, "world", Doubled)
    backend.set_precision(precision)
    made, expected = (stepping.trainer(TINY, tmp_path, "dropout") for _ in range(2))
    for each in (made, expected):
        each.loss_scale.patience = 2
    check_steps(made, eager(one_bucket(expected)), 4)
    assert stages(made) == ["replay"]
    assert (float(made.loss_scale.scale) != 256) == (precision == "fp16")


@pytest.mark.parametrize("case", ["dropout", "hybrid"])
def test_two_ranks_compute_what_one_does(tmp_path, case):
    """Eager, recorded and replayed."""
    ranks.needs_mpi()
    losses = []
    for count in (None, 2):
        out = tmp_path / str(count)
        code, _, stderr = ranks.run(
            count, PROGRAM, out, case, 3, "{}", MINDDPM_BACKEND="cupy", MINDDPM_CUDA="emulate"
        )
        assert code == 0, stderr
        losses.append(np.load(out / "losses.npy"))
    np.testing.assert_allclose(*losses, rtol=1e-5)
