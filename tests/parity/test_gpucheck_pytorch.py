"""gpucheck's training step and sampling step in PyTorch, on PyTorch's CPU device.

Recording a CUDA graph is replaced: a CPU has none.
"""

from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from minddpm.gpucheck import checks, machine, modes, pytorch, step_timings  # noqa: E402
from minddpm.gpucheck import rung_timings as rungs  # noqa: E402
from minddpm.gpucheck.arrays import WrongResultError, largest_error  # noqa: E402
from minddpm.gpucheck.convolutions import Convolution  # noqa: E402
from minddpm.gpucheck.modes import Mode  # noqa: E402

BATCH = 2


@pytest.fixture
def training():
    wanted = checks.reference_losses("numpy", True, BATCH, 2)
    return lambda mode: pytorch.training(mode, checks.TINY, BATCH, wanted, "cpu")


@pytest.fixture
def sampling():
    steps = checks.sampling(checks.random_unet(checks.TINY), BATCH, 1000, False)
    wanted = next(steps).x
    return lambda mode: pytorch.sampling(mode, checks.TINY, BATCH, wanted, "cpu")


def test_the_modes():
    names = {mode.name for mode in modes.MODES}
    assert len(names) == len(modes.MODES) == 2 * 3 * 3
    assert "PyTorch channels_last, bf16, graph" in names


@pytest.mark.parametrize("precision", modes.PRECISIONS)
@pytest.mark.parametrize("layout", modes.LAYOUTS)
@pytest.mark.parametrize("what", ["training", "sampling"])
def test_a_step_has_our_results(request, what, layout, precision):
    run = request.getfixturevalue(what)(Mode(layout, precision, "eager"))
    first, second = run(), run()
    if what == "training":
        assert first[0] != second[0]  # noise and t are fresh
        assert not first[0].requires_grad
    else:
        assert first.shape == (BATCH, 1, 8, 8)
        assert not torch.equal(first, second)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("who", rungs.THEIRS)
def test_a_convolution_has_our_results(who, backward):
    """Half rounds its results; without TF32, a CPU computes both others in float32."""
    c = Convolution(8, 14, 14, 64, 64)
    stored = rungs._rung(who).stored if rungs._rung(who) else "float32"
    run, result = rungs._pytorch(who, c, backward, *rungs._arrays(c, stored), device="cpu")
    error = largest_error(result(run()), rungs._expected(c, backward, stored))
    assert error < rungs._tolerance(who, c)
    assert (error > 1e-4) == (who == "PyTorch, half")


def test_bfloat16_rounds(training):
    """Else it would be timed as bfloat16 without being it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(modes.PRECISIONS, "bf16", 1e-6)
        with pytest.raises(WrongResultError):
            training(Mode("NCHW", "bf16", "eager"))


@pytest.mark.filterwarnings("ignore")  # of the compiler about itself
def test_a_compiled_step(sampling, monkeypatch):
    """Only traced: generating and compiling code for a CPU takes a minute."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    assert torch.isfinite(sampling(Mode("channels_last", "FP32", "compiled"))()).all()


@pytest.fixture
def graphs(monkeypatch):
    """Replace torch.cuda by graphs that call the step again when they are replayed."""
    log, fake = [], SimpleNamespace(current_stream=None, Stream=None)

    class Stream:
        def wait_stream(self, other):
            log.append("wait")

    class CUDAGraph:
        def replay(self):
            log.append("replay")
            for mine, new in zip(self.results, as_tuple(self.step(*self.own)), strict=True):
                mine.copy_(new)

    @contextmanager
    def graph(graph):
        log.append("record")
        yield

    fake.Stream, fake.CUDAGraph, fake.graph = Stream, CUDAGraph, graph
    fake.current_stream = lambda main=Stream(): main  # noqa: B008
    fake.stream = lambda stream: graph_of("warm-up")

    @contextmanager
    def graph_of(name):
        log.append(name)
        yield

    def as_tuple(x):
        return x if isinstance(x, tuple) else (x,)

    monkeypatch.setattr(torch, "cuda", fake)
    made = pytorch.graphed

    def graphed(step, inputs):
        replay = made(step, inputs)
        cells = dict(zip(replay.__code__.co_freevars, replay.__closure__, strict=True))
        graph = cells["graph"].cell_contents
        graph.step, graph.own = step, cells["own"].cell_contents
        graph.results = as_tuple(cells["results"].cell_contents)
        return replay

    monkeypatch.setattr(pytorch, "graphed", graphed)
    return log


@pytest.mark.parametrize("what", ["training", "sampling"])
def test_a_step_as_a_graph(request, graphs, what):
    """Warm-up and recording leave no trace in the weights; each call copies its inputs."""
    run = request.getfixturevalue(what)(Mode("NCHW", "FP32", "graph"))
    verified = {"training": 2, "sampling": 1}[what]
    assert graphs == ["wait", "warm-up", "wait", "record"] + ["replay"] * verified
    run()
    assert graphs[-1] == "replay"


def test_a_graph_that_keeps_its_first_inputs_is_not_timed(graphs, training, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "copy_", lambda self, other: self)
    with pytest.raises(WrongResultError):
        training(Mode("NCHW", "FP32", "graph"))


def test_a_wrong_step_is_not_timed(training, sampling, monkeypatch):
    right = pytorch.images
    monkeypatch.setattr(pytorch, "images", lambda x, layout: 1.01 * right(x, layout))
    for prepare in (training, sampling):
        with pytest.raises(WrongResultError):
            prepare(Mode("NCHW", "FP32", "eager"))


def test_without_a_gpu_a_row_says_so():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert machine.pytorch_problem() == f"PyTorch {torch.__version__} finds no GPU"
    (task,) = step_timings.pytorch("training", ("eager",), quick=True)
    assert task.who == "PyTorch"
    np.testing.assert_equal(
        machine.pytorch_problem("no_such_module"), "no_such_module is not installed"
    )
