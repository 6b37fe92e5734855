"""Tensor cores and 16-bit storage on the stand-in for CuPy."""

import numpy as np
import pytest
from cuda_checks import flat, needs_compiler
from emulated import trainer

import minddpm
from minddpm import backend
from minddpm.gpucheck import checks
from minddpm.kernels.cuda import ladder
from refusals import refused


@needs_compiler
@pytest.mark.parametrize(
    ("precision", "launches"), [("tf32", 6), ("fp16", 6), ("bf16", 6), ("float32", 0)]
)
def test_convolutions_use_the_tensor_cores(xp, monkeypatch, precision, launches):
    """All three products of convolutions with enough channels, also Winograd's, and no others."""
    backend.set_precision(precision)
    used, original = [], ladder.launch

    def launch(file, *arguments, **options):
        used.append((file, options.get("options")))
        original(file, *arguments, **options)

    monkeypatch.setattr(ladder, "launch", launch)
    k = backend.kernels
    for C, C_out in ((16, 20), (256, 256), (17, 15), (1, 32)):
        x, w = xp.ones((1, 3, 3, C), "float32"), xp.ones((3, 3, C, C_out), "float32")
        y = k.conv2d(x, w, None, 1, ((1, 1), (1, 1)))
        k.conv2d_backward(y, x, w, 1, ((1, 1), (1, 1)))
    x, w = xp.ones((2, 16), "float32"), xp.ones((16, 16), "float32")
    k.linear_backward(k.linear((x,), w, None), (x,), w)
    assert sum(file.startswith("conv6_") for file, _ in used) == launches
    if launches:
        options = {"tf32": ("-DTF32",), "fp16": (), "bf16": ("-DBF16",)}[precision]
        assert ("conv6_tensor.cu", options) in used
    minddpm.set_backend("cupy")
    assert backend.precision() == "float32"


@pytest.mark.parametrize(
    ("capability", "supported"), [("70", []), ("75", ["fp16"]), ("80", ["tf32", "fp16", "bf16"])]
)
def test_precisions_that_a_gpu_supports(xp, monkeypatch, capability, supported):
    monkeypatch.setattr(xp.cuda.Device, "compute_capability", capability)
    for name in ("tf32", "fp16", "bf16"):
        found = ladder.TENSOR_CORES[name] in ladder.available_rungs()
        assert found == (name in supported)
        if found:
            assert backend.set_precision(name) == name
        else:
            with refused(name, f"sm_{capability}", "--precision"):
                backend.set_precision(name)


def half_block(xp, parts, C, C_out=20):
    """Run norm_silu_conv2d with a linear layer as its residual path.

    Return the dtype that it saves, and a function for all its results.
    """
    rng = np.random.default_rng(0)

    def draw(*shape):
        return xp.asarray(rng.standard_normal(shape, np.float32))

    xs, k = tuple(draw(2, 5, 7, part) for part in parts), backend.kernels
    weight, bias, w, b = draw(C), draw(C), draw(3, 3, C, C_out), draw(C_out)
    gy, layer_w = draw(2, 5, 7, C_out), draw(C, C_out)
    layer = xs, layer_w, draw(C_out)
    y, saved = k.norm_silu_conv2d(xs, weight, bias, 8, 1e-5, w, b, None, layer)

    def gradients():
        found = k.norm_silu_conv2d_backward(
            gy, xs, weight, bias, saved, 8, w, (), (xs, layer_w, ())
        )
        return [backend.to_numpy(x) for x in flat((y, found))]

    return saved[2].dtype, gradients


@needs_compiler
@pytest.mark.parametrize(("precision", "dtype"), [("fp16", "float16"), ("bf16", "uint16")])
@pytest.mark.parametrize("parts", [(32,), (16, 24), (8, 8, 16)])
def test_the_input_of_a_convolution_is_saved_in_its_precision(
    xp, monkeypatch, precision, dtype, parts
):
    """In 16 bits, and every result keeps all its bits."""
    backend.set_precision(precision)
    found, results = half_block(xp, parts, sum(parts))
    assert found == dtype
    results_16 = results()
    monkeypatch.setattr(ladder, "stored_as", lambda s: "float32")
    found, results = half_block(xp, parts, sum(parts))
    assert found == "float32"
    for one, other in zip(results_16, results(), strict=True):
        np.testing.assert_array_equal(one, other)


@needs_compiler
@pytest.mark.parametrize("precision", ["float32", "tf32", "fp16"])
def test_no_other_precision_saves_bfloat16(xp, precision):
    backend.set_precision(precision)
    assert half_block(xp, (16,), 16)[0] == ("float16" if precision == "fp16" else "float32")
    backend.set_precision("bf16")
    assert half_block(xp, (8,), 8)[0] == "float32"  # too few channels for tensor cores


@needs_compiler
@pytest.mark.parametrize("C_out", [24, 256])  # Winograd would be used for the second
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_another_precision_before_the_backward_changes_nothing(xp, precision, C_out):
    C = max(16, C_out)
    backend.set_precision(precision)
    _, gradients = half_block(xp, (C,), C, C_out)
    expected = gradients()
    for other in ("float32", "tf32", "bf16" if precision == "fp16" else "fp16"):
        backend.set_precision(other)
        for one, wanted in zip(gradients(), expected, strict=True):
            np.testing.assert_array_equal(one, wanted)


@needs_compiler
def test_half_takes_less_memory_until_the_backward(xp, monkeypatch):
    """By half the bytes that each half block passes to a convolution on tensor cores."""
    x, t = xp.ones((2, 8, 8, 1), "float32"), xp.zeros(2, "int64")
    pool = xp.get_default_memory_pool()
    original, held, numbers = ladder.stored_as, {}, []

    def stored_as(s):
        numbers.append(s.N * s.H * s.W * s.C if (stored := original(s)) == "float16" else 0)
        return stored

    monkeypatch.setattr(ladder, "stored_as", stored_as)
    unet = checks.random_unet(checks.TINY)
    unet(x, t)  # the first call allocates tables that are never freed
    for precision in ("float32", "fp16", "bf16"):
        backend.set_precision(precision)
        before = pool.used_bytes()
        y = unet(x, t)
        held[precision] = pool.used_bytes() - before
        del y
    assert sum(numbers) > 0
    assert held["float32"] - held["fp16"] == 2 * sum(numbers)
    assert held["bf16"] == held["fp16"]


@needs_compiler
def test_training_with_half_needs_a_scale_and_has_one(xp, tmp_path):
    """With it gradients differ by no more than half's rounding; without it small ones vanish."""
    grads = {}
    for precision, scale in (("float32", None), ("fp16", None), ("fp16", 2.0**-20)):
        model = trainer("cupy", tmp_path)
        model.optimizer.flat.data += 0.02  # initial zeros before the output block all gradients
        backend.set_precision(precision)
        if scale is not None:
            model.loss_scale.scale[...] = scale
        model._gradients(0, *model._batch(0))
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
