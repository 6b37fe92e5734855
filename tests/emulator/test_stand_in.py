"""The stand-in for CuPy: raises where CuPy raises, counts, records, runs raw kernels."""

import os
import subprocess
import sys

import numpy as np
import pytest
from cuda_checks import needs_compiler

import minddpm
from minddpm import backend
from minddpm.kernels.emulator import EmulatorError, memory
from refusals import refused

SCALE = """
#include "factor.cuh"
extern "C" __global__ void scale(const float* x, float* y, float by, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = by * FACTOR * x[i] + OFFSET;
}
"""


@pytest.fixture
def scale(xp, tmp_path):
    """A kernel for y = 2 by x + 1."""
    (tmp_path / "factor.cuh").write_text("#define FACTOR 2\n")
    (tmp_path / "cuda").mkdir()  # in place of the folder of CUDA's headers
    folders = f"-I{tmp_path / 'cuda'}", f"-I{tmp_path}"
    module = xp.RawModule(code=SCALE, options=(*folders, "-DOFFSET", "--std=c++17"))
    return module.get_function("scale")


def counts(xp):
    """Return synchronisations, copies to the device, copies to the host, launches."""
    stats = xp.stats
    return stats.synchronisations, stats.to_device, stats.to_host, stats.launches


# --- arrays --------------------------------------------------------------------------------------


def test_nothing_is_copied_to_the_host_implicitly(xp):
    x = xp.ones((2, 3), "float32")
    with pytest.raises(TypeError, match=r"Implicit conversion to a NumPy array is not allowed"):
        np.asarray(x)
    host = np.ones((2, 3), np.float32)
    for mix in (
        lambda: x + host, lambda: host + x, lambda: host * x, lambda: x @ host.T, lambda: x < host,
        lambda: np.add(x, host), lambda: xp.maximum(x, host), lambda: xp.concatenate([x, host]),
    ):  # fmt: skip
        with pytest.raises(TypeError, match=r"Unsupported type <class 'numpy.ndarray'>"):
            mix()
    with pytest.raises(TypeError, match="Unsupported type"):
        x += host
    with pytest.raises(TypeError):
        host += x
    with pytest.raises(TypeError, match="Unsupported type"):
        x[...] = host
    with pytest.raises(TypeError, match="Implicit conversion"):
        host[...] = x
    assert (xp.asnumpy(x) == 1).all()
    assert (host == 1).all()


def test_numpys_functions_go_to_the_stand_in(xp):
    x = xp.asarray([1.0, 4.0])
    for result in (np.sqrt(x), np.concatenate([x, x]), np.float64(2) * x, np.sum(x)):
        assert isinstance(result, xp.ndarray)
    assert (np.sqrt(x).get() == [1, 2]).all()
    with pytest.raises(TypeError):
        np.kron(x, x)  # the stand-in has no kron


def test_dtypes_are_numpys(xp):
    x = xp.ones(3, "float32")
    for y in (x + 1, 2.0 * x, x * np.float32(2), x**2, 1 / x, x.mean() * 0.1, x.sum(), -x):
        assert y.dtype == np.float32
    assert x.sum(dtype=xp.float64).dtype == np.float64
    assert (x > 0).dtype == np.bool_
    assert (xp.arange(3, dtype="uint32") >> xp.uint32(1)).dtype == np.uint32
    assert xp.empty(3).dtype == np.float64
    with pytest.raises(ValueError, match="Unsupported dtype object"):
        xp.asarray(["a", None])


def test_a_sum_is_an_array_that_is_changed_in_place(xp):
    total = xp.ones(4, "float32").sum()
    same = total
    total += 1
    assert isinstance(total, xp.ndarray)
    assert total.shape == ()
    assert same.item() == 5
    out = xp.zeros(4)
    assert xp.add(out, total, out=out) is out
    assert out.tolist() == [5] * 4


def test_views_share_memory_and_all_arrays_lie_in_guarded_memory(xp):
    x = xp.zeros((4, 6), "float32")
    windows = xp.lib.stride_tricks.sliding_window_view(x, (2, 2), axis=(0, 1))
    for y in (x[0, 0], x.T, x.reshape(-1), x[None], windows, x + 1, x.copy(), x.sum(), x[[0]]):
        assert memory.holds(y._values)
    x.reshape(-1)[:] = 1
    x.T[0, 0] = 1
    element = x[0, 0]
    element += 1
    assert (x.get().sum(), windows.shape) == (25, (3, 5, 2, 2))
    assert (x.T * 2).strides == x.T.strides  # as in CuPy: a kernel would misread it
    assert np.isnan(xp.empty((2, 3), "float32").get()).all()


def test_synchronisations_and_copies_are_counted(xp):
    x = xp.asarray(np.arange(4.0))
    y = (x * 2 + 1).sum() / len(x)
    assert counts(xp) == (0, 1, 0, 4)
    assert (float(y), y.item(), int(y), bool(xp.isfinite(y))) == (4, 4, 4, True)
    assert counts(xp) == (4, 1, 4, 5)
    xp.asnumpy(x)
    xp.cuda.Stream.null.synchronize()
    xp.cuda.Device().synchronize()
    assert counts(xp) == (7, 1, 5, 5)
    mask = x > 1
    assert x[mask].shape == (2,)  # only the device knows this shape
    assert counts(xp) == (8, 1, 5, 8)
    assert x[np.array([0, 3])].tolist() == [0, 3]
    assert counts(xp) == (9, 2, 6, 9)
    xp.stats.reset()
    assert counts(xp) == (0, 0, 0, 0)


def test_writing_is_a_launch_and_a_view_is_none(xp):
    x = xp.ones((3, 4), "float32")
    for launches, work in (
        (0, lambda: xp.zeros(3)), (1, lambda: xp.full_like(x, 2)), (0, lambda: xp.empty(3)),
        (1, x.copy), (1, lambda: x.astype("float64")), (0, lambda: x.astype("float32", copy=False)),
        (1, lambda: xp.exp(x, out=x)), (1, lambda: x.fill(1)), (1, lambda: x.__iadd__(1)),
        (0, lambda: x.__setitem__(0, x[1])), (1, lambda: x.__setitem__((slice(3), 0), x[:, 1])),
        (1, lambda: x.__setitem__(0, 3.0)), (0, lambda: x.__setitem__(0, 0.0)),
        (0, lambda: x.__setitem__((0, 0), x[1, 1])), (0, lambda: x.__setitem__((0, 0), 0)),
        (0, lambda: x.fill(0)), (1, lambda: x.T.fill(0)), (2, lambda: xp.concatenate([x, x])),
        (1, lambda: x[xp.asarray(np.array([0, 2]))]), (2, lambda: xp.array_equal(x, x)),
        (3, lambda: x.var(axis=0)), (3, lambda: xp.var(x)), (2, lambda: xp.stack([x, x])),
        (1, lambda: xp.asarray(3.0)), (0, lambda: xp.asarray(np.ones(3))),
        (0, lambda: xp.asarray(x)), (0, lambda: x.reshape(-1)[2:]), (0, lambda: x[1, 2]),
        (0, lambda: xp.broadcast_to(x, (2, 3, 4))),
        (1, lambda: x.T.reshape(-1)), (0, lambda: xp.split(x, 2, axis=1)), (0, x.get),
    ):  # fmt: skip
        xp.stats.reset()
        work()
        assert (xp.stats.launches, xp.stats.raw_launches) == (launches, 0)


# --- raw kernels ---------------------------------------------------------------------------------


@needs_compiler
def test_a_raw_kernel(xp, scale):
    x, y = xp.arange(5, dtype="float32"), xp.empty(5, "float32")
    scale((2,), (4,), (x, y, np.float32(3), np.int32(5)))
    assert y.tolist() == [1, 7, 13, 19, 25]
    assert xp.stats.raw_launches == xp.stats.launches - 1 == 1  # and arange
    with pytest.raises(RuntimeError, match="CUDA_ERROR_NOT_FOUND"):
        xp.RawModule(code='extern "C" __global__ void f() {}').get_function("g")


@needs_compiler
def test_wrong_arguments_of_a_raw_kernel(xp, scale):
    x, y, by, n = xp.ones(4, "float32"), xp.empty(4, "float32"), np.float32(1), np.int32(4)
    for arguments, what in (
        ((x, y, 1.0, n), "float64 where a floating-point number of 4 bytes"),
        ((x, y, by, 4), "int64 where a signed integer of 4 bytes"),
        ((x.astype("float64"), y, by, n), "float64 where"),
        ((x, y, by), "takes 4 arguments"),
        ((x, y, by, np.int32(2000)), "kernel.cu:"),  # reads behind x
    ):
        with pytest.raises(EmulatorError, match=what):
            scale((8,), (256,), arguments)
    with pytest.raises(ValueError, match="not C-contiguous"):
        scale((1,), (4,), (xp.ones((4, 2), "float32")[:, 0], y, by, n))
    with pytest.raises(TypeError, match="Unsupported type"):
        scale((1,), (4,), (np.ones(4, np.float32), y, by, n))
    with pytest.raises(TypeError, match="tuples"):
        scale(1, (4,), (x, y, by, n))
    with pytest.raises(RuntimeError, match="max_dynamic_shared_size_bytes"):
        scale((1,), (4,), (x, y, by, n), shared_mem=50_000)


@needs_compiler
def test_a_stream_records_launches_and_a_graph_repeats_them(xp, scale):
    x, y = xp.zeros(4, "float32"), xp.zeros(4, "float32")
    arguments = (np.float32(1), np.int32(4))
    stream = xp.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        scale((1,), (4,), (x, y, *arguments))
        scale((1,), (4,), (y, x, *arguments))
        graph = stream.end_capture()
    assert x.tolist() == [0] * 4
    for expected in (3, 15):  # x -> 2 (2 x + 1) + 1
        graph.launch()
        assert x.tolist() == [expected] * 4
    assert (xp.stats.raw_launches, xp.stats.graph_launches) == (0, 2)


def test_a_graph_repeats_array_code(xp):
    """CuPy's own kernels, copies and memsets are recorded, too, and do not run meanwhile."""
    x, stream, pool = xp.zeros(3, "float32"), xp.cuda.Stream(), xp.cuda.MemoryPool()
    with stream, xp.cuda.using_allocator(pool.malloc):
        stream.begin_capture()
        y = xp.concatenate([x + xp.ones(3, "float32"), xp.zeros(3, "float32")])
        xp.add(y[:3], xp.asarray(2), out=x, casting="unsafe")
        x[1:] *= y.sum()
        x[0] = 5
        del y  # its memory stays in the pool
        graph = stream.end_capture()
    assert x.tolist() == [0, 0, 0]
    for expected in ([5, 9, 9], [5, 12 * 26, 12 * 26]):
        graph.launch()
        assert x.tolist() == expected
    xp.stats.reset()
    graph.launch()
    assert xp.stats.launches == 1


FORBIDDEN = {
    "item": lambda xp, x: x[0].item(), "get": lambda xp, x: x.get(),
    "bool": lambda xp, x: bool(x[0]), "float": lambda xp, x: float(x[0]),
    "int": lambda xp, x: int(x[0]), "print": lambda xp, x: str(x),
    "asnumpy": lambda xp, x: xp.asnumpy(x), "tolist": lambda xp, x: x.tolist(),
    "mask": lambda xp, x: x[x > 0], "set": lambda xp, x: x.set(np.ones(3)),
    "asarray": lambda xp, x: xp.asarray(np.ones(3)), "index": lambda xp, x: x[[0, 1]],
    "the stream": lambda xp, x: xp.cuda.get_current_stream().synchronize(),
    "an event": lambda xp, x: xp.cuda.Event().synchronize(),
    "the device": lambda xp, x: xp.cuda.Device().synchronize(),
    "another capture": lambda xp, x: xp.cuda.Stream().begin_capture(),
}  # fmt: skip


@needs_compiler
@pytest.mark.parametrize("operation", FORBIDDEN)
def test_operations_that_a_recording_stream_forbids(xp, scale, operation):
    """Each is an error and fails the capture, as in CUDA: its end raises as well."""
    x, stream, arguments = xp.ones(3, "float64"), xp.cuda.Stream(), (np.float32(1), np.int32(3))
    y = x.astype("float32")
    xp.stats.reset()
    with stream:
        stream.begin_capture()
        assert x.reshape(1, 3).shape == (1, 3)  # a view launches nothing
        with pytest.raises(xp.cuda.runtime.CUDARuntimeError, match="CaptureUnsupported: "):
            FORBIDDEN[operation](xp, x)
        for further in (lambda: scale((1,), (4,), (y, y, *arguments)), stream.end_capture):
            with pytest.raises(xp.cuda.runtime.CUDARuntimeError, match="CaptureInvalidated: "):
                further()
    assert counts(xp) == (0, 0, 0, 0)
    assert x.tolist() == [1] * 3  # allowed again


@needs_compiler
@pytest.mark.parametrize("non_blocking", [True, False])
def test_work_beside_a_recording_stream(xp, scale, non_blocking):
    """In the null stream only if the recording one is non-blocking, in any other stream always."""
    x, recording = xp.ones(3, "float32"), xp.cuda.Stream(non_blocking=non_blocking)
    work = (
        lambda: scale((1,), (4,), (x, x, np.float32(1), np.int32(3))), x.get, lambda: x + 1,
        lambda: xp.cuda.get_current_stream().synchronize(),
    )  # fmt: skip
    for act in work:
        recording.begin_capture()
        with xp.cuda.Stream():
            act()
        if non_blocking:
            act()
            assert recording.end_capture()._launches == []
            continue
        with pytest.raises(RuntimeError, match=r"CaptureImplicit: .* in the null stream"):
            act()
        with pytest.raises(RuntimeError, match="CaptureInvalidated"):
            recording.end_capture()
    assert x.tolist() == [7 if non_blocking else 3] * 3  # x = 2 x + 1, twice or once


def test_streams_that_cannot_begin_or_end_a_capture(xp):
    for null in (xp.cuda.Stream.null, xp.cuda.Stream(null=True)):
        with pytest.raises(
            RuntimeError, match=r"cannot capture on the default \(legacy\) stream"
        ) as no:
            null.begin_capture()
        assert no.type is RuntimeError  # CuPy's own, not CUDA's
    with pytest.raises(xp.cuda.runtime.CUDARuntimeError, match="IllegalState"):
        xp.cuda.Stream().end_capture()


# --- selecting the stand-in ----------------------------------------------------------------------


def test_the_variable_replaces_cupy_by_the_stand_in(emulated_cupy, capsys):
    assert backend.active().name == "cupy"
    assert sys.modules["cupy"] is backend.xp is emulated_cupy
    assert backend.array_module(backend.xp.ones(1)) is emulated_cupy
    minddpm.set_backend("cupy")
    assert capsys.readouterr().err == ""  # printed only when it was installed
    assert minddpm.set_backend("auto").name == "numba"


@pytest.mark.parametrize("name", ["numpy", "cupy", "auto"])
def test_other_values_of_the_variable_are_refused(monkeypatch, name):
    monkeypatch.setenv("MINDDPM_CUDA", "yes")
    with refused("MINDDPM_CUDA='yes'", "emulate"):
        minddpm.set_backend(name)


def test_a_program_prints_that_it_emulates():
    code = "import minddpm; print(minddpm.set_backend('cupy').xp.arange(3).sum())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "MINDDPM_CUDA": "emulate"},
    )
    assert done.stdout == "3\n"
    assert done.stderr.count("\n") == 1
    assert "CuPy is emulated on the CPU" in done.stderr
