"""The stand-in for CuPy: it refuses what CuPy refuses, counts, records, and trains a model."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import minddpm
from minddpm import backend
from minddpm.commands import cli
from minddpm.data import ImageDataset
from minddpm.gpucheck import checks
from minddpm.kernels.cuda import convolution
from minddpm.kernels.cuda.replay import replayed
from minddpm.kernels.emulator import EmulatorError, memory
from minddpm.training.ddpm import Trainer, TrainingOptions
from minddpm.training.run_directory import RunDirectory
from refusals import refused

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
SCALE = """
#include "factor.cuh"
extern "C" __global__ void scale(const float* x, float* y, float by, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = by * FACTOR * x[i] + OFFSET;
}
"""


@pytest.fixture
def xp(emulated_cupy):
    emulated_cupy.stats.reset()
    return emulated_cupy


@pytest.fixture
def scale(xp, tmp_path):
    """y = 2 by x + 1."""
    (tmp_path / "factor.cuh").write_text("#define FACTOR 2\n")
    (tmp_path / "cuda").mkdir()  # as if CUDA's own headers were there
    folders = f"-I{tmp_path / 'cuda'}", f"-I{tmp_path}"
    module = xp.RawModule(code=SCALE, options=(*folders, "-DOFFSET", "--std=c++17"))
    return module.get_function("scale")


def counts(xp):
    stats = xp.stats
    return stats.synchronisations, stats.to_device, stats.to_host, stats.launches


# --- arrays --------------------------------------------------------------------------------------


def test_nothing_goes_to_the_host_unasked(xp):
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
        np.kron(x, x)  # the stand-in has none


def test_types_are_numpys(xp):
    x = xp.ones(3, "float32")
    for same in (x + 1, 2.0 * x, x * np.float32(2), x**2, 1 / x, x.mean() * 0.1, x.sum(), -x):
        assert same.dtype == np.float32
    assert x.sum(dtype=xp.float64).dtype == np.float64
    assert (x > 0).dtype == np.bool_
    assert (xp.arange(3, dtype="uint32") >> xp.uint32(1)).dtype == np.uint32
    assert xp.empty(3).dtype == np.float64
    with pytest.raises(ValueError, match="Unsupported dtype object"):
        xp.asarray(["a", None])


def test_a_sum_is_an_array_that_can_be_added_to(xp):
    total = xp.ones(4, "float32").sum()
    same = total
    total += 1
    assert isinstance(total, xp.ndarray)
    assert total.shape == ()
    assert same.item() == 5
    out = xp.zeros(4)
    assert xp.add(out, total, out=out) is out
    assert out.tolist() == [5] * 4


def test_views_share_their_memory_and_all_else_lies_in_guarded_memory(xp):
    x = xp.zeros((4, 6), "float32")
    windows = xp.lib.stride_tricks.sliding_window_view(x, (2, 2), axis=(0, 1))
    for y in (x[1:], x.T, x.reshape(-1), x[None], windows, x + 1, x.copy(), x.sum(), x[[0, 1]]):
        assert memory.holds(y._values)
    x.reshape(-1)[:] = 1
    x.T[0, 0] = 2
    assert (x.get().sum(), windows.shape) == (25, (3, 5, 2, 2))
    assert (x.T * 2).strides == x.T.strides  # as in CuPy: what a kernel would misread
    assert np.isnan(xp.empty((2, 3), "float32").get()).all()


def test_what_waits_and_what_is_copied_is_counted(xp):
    x = xp.asarray(np.arange(4.0))
    y = (x * 2 + 1).sum() / len(x)
    assert counts(xp) == (0, 1, 0, 4)
    assert (float(y), y.item(), int(y), bool(xp.isfinite(y))) == (4, 4, 4, True)
    assert counts(xp) == (4, 1, 3, 5)
    xp.asnumpy(x)
    xp.cuda.Stream.null.synchronize()
    xp.cuda.Device().synchronize()
    assert counts(xp) == (7, 1, 4, 5)
    mask = x > 1
    assert x[mask].shape == (2,)  # how many there are, only the device knows
    assert counts(xp) == (8, 1, 4, 7)
    assert x[np.array([0, 3])].tolist() == [0, 3]
    assert counts(xp) == (9, 2, 5, 8)
    xp.stats.reset()
    assert counts(xp) == (0, 0, 0, 0)


def test_what_writes_is_a_launch_and_a_view_is_none(xp):
    x = xp.ones((3, 4), "float32")
    for launches, work in (
        (1, lambda: xp.zeros(3)), (1, lambda: xp.full_like(x, 2)), (0, lambda: xp.empty(3)),
        (1, x.copy), (1, lambda: x.astype("float64")), (0, lambda: x.astype("float32", copy=False)),
        (1, lambda: xp.exp(x, out=x)), (1, lambda: x.fill(1)), (1, lambda: x.__iadd__(1)),
        (1, lambda: x.__setitem__(0, x[1])), (1, lambda: xp.concatenate([x, x])),
        (1, lambda: x[xp.asarray(np.array([0, 2]))]), (1, lambda: xp.array_equal(x, x)),
        (1, lambda: xp.asarray(3.0)), (0, lambda: xp.asarray(np.ones(3))),
        (0, lambda: xp.asarray(x)), (0, lambda: x.reshape(-1)[2:]),
        (0, lambda: xp.broadcast_to(x, (2, 3, 4))),
        (1, lambda: x.T.reshape(-1)), (0, lambda: xp.split(x, 2, axis=1)), (0, x.get),
    ):  # fmt: skip
        xp.stats.reset()
        work()
        assert (xp.stats.launches, xp.stats.raw_launches) == (launches, 0)


# --- memory --------------------------------------------------------------------------------------


def test_a_pool_knows_what_is_in_use_and_has_a_limit(xp):
    pool = xp.get_default_memory_pool()
    before = pool.used_bytes()
    x = xp.zeros((10, 100), "float32")
    y = x[2:]
    assert pool.used_bytes() == before + 4096  # a multiple of 512
    del x
    assert pool.used_bytes() == before + 4096  # y is a part of it
    pool.set_limit(size=before + 6000)
    try:
        assert pool.get_limit() == before + 6000
        for work in (
            lambda: y * 2, lambda: xp.empty((10, 100), "float32"), lambda: xp.asarray(np.ones(500)),
        ):  # fmt: skip
            with pytest.raises(xp.cuda.memory.OutOfMemoryError, match=r"allocating .* so far: "):
                work()
        y = None
        assert pool.used_bytes() == before
        assert xp.zeros(1000, "float32").sum().item() == 0
    finally:
        pool.set_limit(size=None)


def test_an_allocator_of_ones_own(xp):
    pool, others = xp.cuda.MemoryPool(), xp.get_default_memory_pool().used_bytes()
    with xp.cuda.using_allocator(pool.malloc):
        x = xp.zeros(100, "float32")
    y = x + 1
    assert (pool.used_bytes(), pool.total_bytes()) == (512, 512)
    assert xp.get_default_memory_pool().used_bytes() == others + 512
    del x
    assert (pool.used_bytes(), y.sum().item()) == (0, 100)


def pinned(xp, values):
    """The values in pinned memory."""
    buffer = xp.cuda.alloc_pinned_memory(values.nbytes)
    there = np.frombuffer(buffer, values.dtype, values.size).reshape(values.shape)
    there[...] = values
    return there


def test_copies_from_pinned_memory_do_not_wait(xp):
    host = np.arange(6, dtype=np.float32).reshape(2, 3)
    x = xp.empty((2, 3), "float32")
    xp.stats.reset()
    x.set(pinned(xp, host))
    xp.asarray(pinned(xp, host)[:1])
    xp.asarray(host)  # CuPy copies it into its own pinned memory
    assert (xp.stats.to_device, xp.stats.pageable_to_device, xp.stats.synchronisations) == (3, 0, 0)
    x.set(host)
    assert (xp.stats.to_device, xp.stats.pageable_to_device) == (3, 1)
    assert (x.get() == host).all()
    with pytest.raises(ValueError, match="Shape mismatch"):
        x.set(host[:1])


def test_pinned_memory_may_be_overwritten_when_its_copy_was_waited_for(xp):
    host, x = pinned(xp, np.zeros(3, np.float32)), xp.empty(3, "float32")
    for value in range(4):
        host[:] = value
        x.set(host)
        event = xp.cuda.Stream.null.record()
        event.synchronize()
    assert x.tolist() == [3] * 3


@pytest.mark.parametrize("found", ["by the next copy", "by an event", "by the end"])
def test_pinned_memory_that_is_overwritten_too_early(xp, found):
    host, x, event = pinned(xp, np.zeros(3, np.float32)), xp.empty(3, "float32"), xp.cuda.Event()
    event.record()  # before the copy: it does not wait for that
    x.set(host)
    event.synchronize()
    host[1] = 1
    wait = {"by the next copy": lambda: x.set(host), "by an event": event.synchronize}
    with pytest.raises(EmulatorError, match="overwritten while its copy"):
        wait.get(found, x.get)()
    x.get()  # said once


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
def test_what_a_raw_kernel_is_not_to_be_given(xp, scale):
    x, y, by, n = xp.ones(4, "float32"), xp.empty(4, "float32"), np.float32(1), np.int32(4)
    for arguments, what in (
        ((x, y, 1.0, n), "float64 where floating-point, 4 bytes"),
        ((x, y, by, 4), "int64 where signed, 4 bytes"),
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


def test_what_a_recording_stream_forbids(xp):
    x, stream = xp.ones(3), xp.cuda.Stream()
    with pytest.raises(xp.cuda.runtime.CUDARuntimeError, match="null stream"):
        xp.cuda.Stream.null.begin_capture()
    with stream:
        stream.begin_capture()
        try:
            for forbidden in (
                x.item, x.get, lambda: bool(x), lambda: float(x), stream.synchronize,
                xp.cuda.Event().synchronize, xp.cuda.Device().synchronize, lambda: x + 1,
                lambda: xp.asarray(np.ones(3)), lambda: x.fill(0), lambda: xp.exp(x, out=x),
                xp.cuda.Stream().begin_capture,
            ):  # fmt: skip
                with pytest.raises(xp.cuda.runtime.CUDARuntimeError, match="Capture"):
                    forbidden()
            assert x.reshape(1, 3).shape == (1, 3)  # nothing to be run
        finally:
            stream.end_capture()
    assert x.tolist() == [1] * 3


@needs_compiler
def test_a_launch_that_the_recording_stream_does_not_see(xp, scale):
    x, stream = xp.ones(3, "float32"), xp.cuda.Stream()
    stream.begin_capture()
    with pytest.raises(xp.cuda.runtime.CUDARuntimeError, match="outside of the stream"):
        scale((1,), (4,), (x, x, np.float32(1), np.int32(3)))
    stream.end_capture()


# --- choosing it ---------------------------------------------------------------------------------


def test_the_variable_puts_it_in_cupys_place(emulated_cupy, capsys):
    assert backend.active().name == "cupy"
    assert sys.modules["cupy"] is backend.xp is emulated_cupy
    assert backend.array_module(backend.xp.ones(1)) is emulated_cupy
    minddpm.set_backend("cupy")
    assert capsys.readouterr().err == ""  # said once, when it was installed
    assert minddpm.set_backend("auto").name == "numba"


@pytest.mark.parametrize("name", ["numpy", "cupy", "auto"])
def test_other_values_of_the_variable_are_refused(monkeypatch, name):
    monkeypatch.setenv("MINDDPM_CUDA", "yes")
    with refused("MINDDPM_CUDA='yes'", "emulate"):
        minddpm.set_backend(name)


def test_the_program_says_that_it_emulates():
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


# --- a model on it -------------------------------------------------------------------------------

TINY = {
    **minddpm.SMALL, "sample_size": 8, "block_out_channels": (8, 16), "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"), "norm_num_groups": 4,
}  # fmt: skip
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1), np.uint8)


def trainer(name, folder):
    """A tiny model about to be trained, the same one on every backend."""
    minddpm.set_backend(name)
    minddpm.manual_seed(0)
    return Trainer(
        minddpm.UNet2D(**TINY),
        minddpm.GaussianDiffusion(minddpm.schedules.linear(100)),
        ImageDataset(PIXELS, None, "noise"),
        RunDirectory(folder),
        TrainingOptions(batch_size=4, warmup_steps=1),
    )


def test_training_has_the_losses_of_numpy(xp, tmp_path):
    losses = {}
    for name in ("numpy", "cupy"):
        model = trainer(name, tmp_path)
        records = [model.train_step() for _ in range(3)]
        losses[name] = np.array([backend.to_numpy(record.losses) for record in records])
    assert isinstance(model.optimizer.flat.data, xp.ndarray)
    np.testing.assert_allclose(losses["cupy"], losses["numpy"], rtol=0, atol=1e-4)
    xp.stats.reset()
    model.train_step()
    # A step waits for nothing, not even for its batch, and its record for the log once.
    assert (xp.stats.synchronisations, xp.stats.to_host, xp.stats.pageable_to_device) == (0, 0, 0)
    assert xp.stats.to_device > 0
    row = model.row([model.train_step() for _ in range(3)])
    assert np.isfinite(row["grad_norm"])
    assert (xp.stats.synchronisations, xp.stats.to_host) == (1, 1)


@needs_compiler
def test_a_sampling_step_is_one_graph(xp):
    """From the third on: at the first the model runs eagerly, at the second it is recorded."""
    unet = checks.random_unet(checks.TINY)
    steps, counts = {}, {}
    for replay in (False, True):
        steps_taken = checks.sampling(unet, 2, 5, replay)
        next(steps_taken), next(steps_taken)
        xp.stats.reset()
        steps[replay] = [next(steps_taken).x.tolist() for _ in range(3)]
        assert xp.stats.to_host == 3  # these
        assert xp.stats.to_device == 0
        counts[replay] = xp.stats.launches, xp.stats.raw_launches, xp.stats.graph_launches
    assert steps[True] == steps[False]
    # For each step: t, the copies of x, t and the output, the graph, and the update.
    assert counts[True] == (3 * 6, 3, 3)
    assert counts[False][1] > 3 * 40


@needs_compiler
@pytest.mark.parametrize(
    ("precision", "launches"), [("tf32", 6), ("fp16", 6), ("bf16", 6), ("float32", 0)]
)
def test_convolutions_use_the_tensor_cores(xp, monkeypatch, precision, launches):
    """All three products of those with enough channels, Winograd's included, and nothing else."""
    backend.set_precision(precision)
    used, right = [], convolution.launch

    def launch(file, *arguments, **options):
        used.append((file, options.get("options")))
        right(file, *arguments, **options)

    monkeypatch.setattr(convolution, "launch", launch)
    k = backend.kernels
    for C, K in ((16, 20), (256, 256), (17, 15), (1, 32)):
        x, w = xp.ones((1, 3, 3, C), "float32"), xp.ones((3, 3, C, K), "float32")
        y = k.conv2d(x, w, None, 1, ((1, 1), (1, 1)))
        k.conv2d_backward(y, x, w, 1, ((1, 1), (1, 1)))
    x, w = xp.ones((2, 16), "float32"), xp.ones((16, 16), "float32")
    k.linear_backward(k.linear((x,), w, None), (x,), w)
    assert [file for file, _ in used].count("conv6_tensor.cu") == launches
    if launches:
        options = {"tf32": ("-DTF32",), "fp16": (), "bf16": ("-DBF16",)}[precision]
        assert ("conv6_tensor.cu", options) in used
    minddpm.set_backend("cupy")
    assert backend.precision() == "float32"


def test_the_headers_of_tensor_cores_may_lie_in_a_wheel(xp, monkeypatch):
    given, launch = [], sys.modules["minddpm.kernels.cuda.launch"]
    monkeypatch.setattr(xp, "RawModule", lambda code, options: given.append(options))
    for found in (Path("wheel/include/crt/mma.h"), None):
        monkeypatch.setattr(launch, "in_wheels", lambda _, found=found: found)
        for file in ("conv6_tensor.cu", "norm.cu"):
            launch._module.__wrapped__(xp, file, ("-DX",))
    assert ["-Iwheel/include" in options for options in given] == [True, False, False, False]
    assert all(options[-2:] == ("--std=c++17", "-DX") for options in given)


@pytest.mark.parametrize(
    ("has", "fitting"), [("70", []), ("75", ["fp16"]), ("80", ["tf32", "fp16", "bf16"])]
)
def test_tensor_cores_that_a_gpu_has_not(xp, monkeypatch, has, fitting):
    monkeypatch.setattr(xp.cuda.Device, "compute_capability", has)
    for name in ("tf32", "fp16", "bf16"):
        found = convolution.TENSOR_CORES[name] in convolution.rungs()
        assert found == (name in fitting)
        if found:
            assert backend.set_precision(name) == name
        else:
            with refused(name, f"sm_{has}", "--precision"):
                backend.set_precision(name)


def half_block(xp, parts, C, K=20):
    """Forward and backward of norm_silu_conv2d: what it keeps, and what to call for the rest."""
    rng = np.random.default_rng(0)

    def draw(*shape):
        return xp.asarray(rng.standard_normal(shape, np.float32))

    xs, k = tuple(draw(2, 5, 7, part) for part in parts), backend.kernels
    weight, bias, w, b, gy = draw(C), draw(C), draw(3, 3, C, K), draw(K), draw(2, 5, 7, K)
    y, kept = k.norm_silu_conv2d(xs, weight, bias, 8, 1e-5, w, b, None, None)

    def gradients():
        gxs, *others = k.norm_silu_conv2d_backward(gy, xs, weight, bias, kept, 8, w)
        return [backend.to_numpy(x) for x in (y, *gxs, *others)]

    return kept[2].dtype, gradients


@needs_compiler
@pytest.mark.parametrize(("precision", "dtype"), [("fp16", "float16"), ("bf16", "uint16")])
@pytest.mark.parametrize("parts", [(32,), (16, 24), (8, 8, 16)])
def test_what_only_a_convolution_reads_is_kept_as_it_reads_it(
    xp, monkeypatch, precision, dtype, parts
):
    """In 16 bits, and no bit of any result is another one."""
    backend.set_precision(precision)
    found, stored = half_block(xp, parts, sum(parts))
    assert found == dtype
    stored = stored()
    monkeypatch.setattr(convolution, "stored_as", lambda s: "float32")
    found, whole = half_block(xp, parts, sum(parts))
    assert found == "float32"
    for one, other in zip(stored, whole(), strict=True):
        np.testing.assert_array_equal(one, other)


@needs_compiler
@pytest.mark.parametrize("precision", ["float32", "tf32", "fp16"])
def test_no_other_precision_keeps_bfloat16(xp, precision):
    backend.set_precision(precision)
    assert half_block(xp, (16,), 16)[0] == ("float16" if precision == "fp16" else "float32")
    backend.set_precision("bf16")
    assert half_block(xp, (8,), 8)[0] == "float32"  # too few channels for tensor cores


@needs_compiler
@pytest.mark.parametrize("K", [20, 256])  # of which Winograd would take the second
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_another_precision_before_the_backward_changes_nothing(xp, precision, K):
    C = max(16, K)
    backend.set_precision(precision)
    _, gradients = half_block(xp, (C,), C, K)
    expected = gradients()
    for other in ("float32", "tf32", "bf16" if precision == "fp16" else "fp16"):
        backend.set_precision(other)
        for one, wanted in zip(gradients(), expected, strict=True):
            np.testing.assert_array_equal(one, wanted)


@needs_compiler
def test_half_takes_less_memory_until_the_backward(xp, monkeypatch):
    """By half of what each half block hands to a convolution on tensor cores."""
    x, t = xp.ones((2, 8, 8, 1), "float32"), xp.zeros(2, "int64")
    pool = xp.get_default_memory_pool()
    right, kept, numbers = convolution.stored_as, {}, []

    def stored_as(s):
        numbers.append(s.N * s.H * s.W * s.C if (stored := right(s)) == "float16" else 0)
        return stored

    monkeypatch.setattr(convolution, "stored_as", stored_as)
    unet = checks.random_unet(checks.TINY)
    unet(x, t)  # which leaves tables for good
    for precision in ("float32", "fp16", "bf16"):
        backend.set_precision(precision)
        before = pool.used_bytes()
        y = unet(x, t)
        kept[precision] = pool.used_bytes() - before
        del y
    assert sum(numbers) > 0
    assert kept["float32"] - kept["fp16"] == 2 * sum(numbers)
    assert kept["bf16"] == kept["fp16"]


@needs_compiler
def test_training_with_half_needs_a_scale_and_has_one(xp, tmp_path):
    """Weights whose gradients differ by less than half's rounding, and none at all without it."""
    grads = {}
    for precision, scale in (("float32", None), ("fp16", None), ("fp16", 2.0**-20)):
        model = trainer("cupy", tmp_path)
        model.optimizer.flat.data += 0.02  # zeros before the output would let nothing through
        backend.set_precision(precision)
        if scale is not None:
            model.loss_scale.scale[...] = scale
        model._backward(0)
        grads[precision, scale] = backend.to_numpy(model.optimizer.flat.grad)
    exact, half, without = grads.values()
    assert 1e-5 < np.abs(half - exact).max() / np.abs(exact).max() < 1e-3
    assert np.abs(without - exact).max() / np.abs(exact).max() > 0.01


@needs_compiler
def test_a_gradient_beyond_half_halves_the_scale(xp, tmp_path):
    model = trainer("cupy", tmp_path)
    model.optimizer.flat.data += 0.02
    backend.set_precision("fp16")
    before = backend.to_numpy(model.optimizer.flat.data).copy()
    model.loss_scale.scale[...] = 2.0**40
    record = model.train_step()
    assert not np.isfinite(backend.to_numpy(record.squared_norm))
    assert float(backend.to_numpy(model.loss_scale.scale)) == 2.0**39
    np.testing.assert_array_equal(backend.to_numpy(model.optimizer.flat.data), before)
    assert np.isfinite(model.row([record])["loss"])


@needs_compiler
def test_what_is_recorded_has_memory_that_nobody_else_gets(xp):
    pool, used = xp.get_default_memory_pool(), []
    x = xp.ones(1000, "float32")

    def function(x):
        y = backend.kernels.silu(x)
        used.append(pool.used_bytes())
        return y

    repeated = replayed(function)
    results = [repeated(x).tolist() for _ in range(3)]
    # It ran once and was recorded once; of the default pool it used the copy of its input alone.
    assert used == [used[0]] * 2
    assert used[0] == x.nbytes + repeated._inputs[0].nbytes
    assert results[0] == results[1] == results[2]


@needs_compiler
def test_forward_and_backward_are_few_launches(xp, monkeypatch):
    """Of the small UNet, from the second time on: the first one fills what is kept."""

    def not_run(self, grid, block, args, *, shared_mem=0):
        xp.stats.launches += 1

    monkeypatch.setattr(xp.RawKernel, "__call__", not_run)
    unet = minddpm.UNet2D(**minddpm.SMALL)
    x, t = xp.zeros((2, 28, 28, 1), "float32"), xp.zeros(2, "int64")
    for _ in range(2):
        xp.stats.reset()
        y = unet(x, t)
        y.backward(xp.zeros(y.shape, "float32"))
    assert 200 < xp.stats.launches - 1 <= 250  # but for the zeros
    assert (xp.stats.synchronisations, xp.stats.to_host) == (0, 0)


def test_a_device_that_runs_out_of_memory_leaves_the_checkpoint_whole(xp, tmp_path, capsys):
    model, pool = trainer("cupy", tmp_path), xp.get_default_memory_pool()
    model.save()
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    model.train_step()  # after which another checkpoint would be another one
    pool.set_limit(size=pool.used_bytes() + 20_000)
    try:
        assert cli.run(lambda: model.train(progress=False)) == 2
    finally:
        pool.set_limit()
    assert re.fullmatch(
        r"error: the GPU has not enough memory \(Out of memory allocating .*\): choose a smaller "
        r"--batch-size or model\.\n",
        capsys.readouterr().err,
    )
    assert {file: file.read_bytes() for file in before} == before


EXAMPLES = Path(__file__).parents[2] / "examples"


def run_example(tmp_path, name, *arguments, **environment):
    """examples/<name> on the stand-in, about pictures of a single grey, and how it ended."""
    for i in range(3):
        Image.new("L", (8, 8), i * 100).save(tmp_path / f"{i}.png")
    return subprocess.run(
        [sys.executable, EXAMPLES / name, *map(str, arguments), "--backend", "cupy"],
        cwd=tmp_path,
        env={**os.environ, "MINDDPM_CUDA": "emulate", "OPENBLAS_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
    )


TRAIN = ["--steps", 3, "--batch-size", 2, "--timesteps", 40, "--sample-steps", 2, "--samples", 4]


def test_the_examples_run_on_it(tmp_path):
    """Training, its pictures and its files, then sampling from them."""
    train = [*TRAIN, "--image-folder", tmp_path, "--image-size", 8, "--out", "run"]
    sample = ["--model", "run", "--count", 2, "--steps", 2, "--out", "again.png"]
    for name, arguments in (("train_mnist.py", train), ("sample.py", sample)):
        done = run_example(tmp_path, name, *arguments)
        assert done.returncode == 0, done.stderr
        assert "emulated on the CPU" in done.stderr
    for name in ("run/samples.png", "run/denoising.gif", "again.png"):
        assert (tmp_path / name).is_file()


def test_an_example_that_runs_out_of_memory_says_so_in_one_sentence(tmp_path):
    train = [*TRAIN, "--image-folder", tmp_path, "--image-size", 8, "--out", "run"]
    done = run_example(tmp_path, "train_mnist.py", *train, CUPY_GPU_MEMORY_LIMIT="1000000")
    assert done.returncode == 2
    emulated, said = done.stderr.splitlines()
    assert "emulated" in emulated
    assert "the GPU has not enough memory" in said
    assert "limit set to: 1,000,000 bytes" in said
    assert not (tmp_path / "run").exists()
