"""Training in ranks: N ranks compute what one does, the same bits every time."""

import json
from pathlib import Path

import numpy as np
import pytest
import ranks
from stepping import CASES, IN_PART

from minddpm.training.run_directory import STATE

ranks.needs_mpi()
PROGRAM = Path(__file__).with_name("rank_program.py")
STEPS = 5  # the first is eager, the second recorded and compared, the others replayed
SUMS = """
import time
import numpy as np
from minddpm import parallel

world = parallel.join()
x = np.full((2, 1_000_000), world.rank + 1, "float32")
latest = time.monotonic() + 60
while world.rank == 1 and not world._comm.iprobe():
    if time.monotonic() > latest:
        print("rank 0 waits for rank 1 when it begins a sum", flush=True)
        world._comm.Abort(1)
    time.sleep(0.01)
ends = [world.begin_sum(part) for part in x]
if world.rank == 0:
    world._comm.send("rank 0 has begun", 1)
else:
    world._comm.recv()
for end in ends:
    end()
assert (x == 3).all()
"""


def train(out, count, case="plain", steps=STEPS, **options):
    """Train in `count` ranks; return the losses [steps, 8]."""
    code, _, stderr = ranks.run(count, PROGRAM, out, case, steps, json.dumps(options))
    assert code == 0, stderr
    return np.load(out / "losses.npy")


@pytest.mark.parametrize(
    ("case", "options"),
    [("dropout and classes", {"accumulate": 2}), *((case, {}) for case in ("muon", *IN_PART))],
)
def test_two_ranks_compute_what_one_does(tmp_path, case, options):
    """Losses, norms (Adam hides the gradients' scale), weights (Adam magnifies their rounding)."""
    assert case in CASES | IN_PART
    one = train(tmp_path / "one", None, case)
    two = train(tmp_path / "two", 2, case, **options)
    np.testing.assert_allclose(two, one, rtol=1e-5)
    norms = [np.load(tmp_path / name / "norms.npy") for name in ("one", "two")]
    np.testing.assert_allclose(norms[1], norms[0], rtol=1e-4)
    ranks.check_weights(tmp_path / "one" / STATE, tmp_path / "two" / STATE)


def test_a_sum_begins_without_the_other_ranks(tmp_path):
    program = tmp_path / "sums.py"
    program.write_text(SUMS)
    code, stdout, stderr = ranks.run(2, program)
    assert code == 0, stdout + stderr


def test_the_same_ranks_give_the_same_bits(tmp_path):
    files = []
    for name in ("first", "second"):
        train(tmp_path / name, 2, accumulate=2)
        files.append((tmp_path / name / STATE).read_bytes())
    assert files[0] == files[1]


def test_a_run_goes_on_in_another_number_of_ranks(tmp_path):
    """Begun in two ranks, continued in one, in four, and in one again."""
    expected = train(tmp_path / "one", None, steps=8)
    out, losses = tmp_path / "parts", []
    for count in (2, None, 4, None):
        losses.append(train(out, count, steps=2))
    np.testing.assert_allclose(np.concatenate(losses), expected, rtol=1e-5)


def test_ranks_whose_weights_differ_do_not_save(tmp_path):
    code, _, stderr = ranks.run(2, PROGRAM, tmp_path / "out", "plain", 1, "{}", "differ")
    assert code != 0
    assert "the weights of the ranks differ after step 1" in stderr
    assert not (tmp_path / "out" / STATE).exists()
