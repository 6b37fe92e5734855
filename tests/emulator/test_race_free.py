"""Every CUDA kernel, and a training step, passes the emulator's race mode."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import test_cuda
import test_cuda_convolution as test_conv
import test_cuda_training as test_training
from cuda_checks import draw, needs_compiler
from emulated import CUDA, trainer

from minddpm import backend
from minddpm.kernels.cuda import ladder
from minddpm.kernels.emulator import Library, build
from minddpm.kernels.emulator.cupy_on_cpu.cuda import emulation

pytestmark = needs_compiler


@pytest.fixture
def in_race_mode(stand_in, monkeypatch):
    """Runs the kernels of the cupy backend in race mode; the set of (file, kernel) launched."""
    monkeypatch.setattr(emulation, "mode", "race")
    launched, launch = set(), Library.launch

    def recorded(library, name, *arguments, **options):
        launched.add((Path(library.path).name, name))
        launch(library, name, *arguments, **options)

    monkeypatch.setattr(Library, "launch", recorded)
    return launched


class Drawn:
    """Replaces hypothesis' `data`: returns fixed values in turn."""

    def __init__(self, *values):
        self.values = itertools.cycle(values)

    def draw(self, strategy):
        return next(self.values)


def small_convolution(_):
    """Replaces test_cuda_convolution.drawn_convolution."""
    x, w, b = draw(0, (2, 7, 5, 8), (3, 2, 8, 8), 8)
    return x, w, b, 1, ((1, 0), (1, 1))


# Tests of tests/cuda with fixed arguments: small sizes that need more than one block. Each runs its
# kernels in three orders.
BODIES = [
    (test_cuda.test_silu_and_add, dict(n=300, seed=0)),
    (test_cuda.test_upsample_nearest, dict(N=2, H=3, W=5, C=3)),
    (test_cuda.test_timestep_features, dict(C=33, cosines_first=True)),
    (test_cuda.test_q_sample, dict(N=3, P=90)),
    (test_cuda.test_adam_and_ema, dict(n=300, step=2, averaged=True)),
    (test_cuda.test_clip_scale, dict(value=4.0)),
    (test_cuda.test_sampler_step, dict(n=300, clip=True, sigma=0.3)),
    (test_cuda.test_squared_norm, dict(n=600)),
    (test_cuda.test_random_numbers_are_bit_equal, dict(n=281, first=3)),
    (test_cuda.test_random_normal, dict()),
    (test_cuda.test_q_sample_normal, dict(N=3, P=50, first=6)),
    (test_cuda.test_dropout, dict(n=300, p=0.5, first=6)),
    (test_cuda.test_sampler_step_normal, dict(n=300, first=6)),
    (test_training.test_muon, dict(shapes=test_training.MUON_SHAPES, averaged=True)),
    (test_training.test_muon_changes_nothing_if_the_scale_is_not_finite, dict(scale=np.nan)),
    (test_training.test_take, dict(dtype="float32")),
    (test_training.test_take, dict(dtype="int64")),
    (test_training.test_take_rows, dict(R=5, C=33, N=20)),
    (test_training.test_mean_squared_errors, dict(N=2, P=300)),
    (test_training.test_a_recorded_step_is_read_on_the_device, dict()),
    (test_cuda.test_replayed, dict(N=3, P=100)),
    (test_cuda.test_the_loops_that_measure_a_ceiling, dict()),
    (test_cuda.test_group_norm, dict(N=2, P=37, groups=8, size=4, with_silu=True, seed=0)),
    (test_cuda.test_group_norm, dict(N=2, P=7, groups=2, size=5, with_silu=False, seed=0)),
    # two tiles, and two blocks; a lane to a query, and eight:
    *((test_cuda.test_attention, dict(N=1, L=L, heads=1, D=D, scale=1.0))
      for L, D in ((66, 4), (34, 33))),
    *((test_conv.test_a_rung, dict(rung=rung, data=Drawn(4, 1, True))) for rung in ladder.RUNGS),
    # one that cannot use vectors:
    (test_conv.test_a_rung, dict(rung="4 register tile", data=Drawn(3, 0, True))),
    (test_conv.test_the_depth_in_slices, dict(rung="4 register tile", C=8, K=66, slices=2)),
    (test_conv.test_conv2d, dict(data=Drawn(True, True))),
    (test_conv.test_conv_transpose2d,
     dict(N=2, H=3, W=5, C_in=8, C_out=8, window=(4, 4, 2, 1), need_gx=True, with_partial=True)),
    (test_conv.test_linear, dict(rows=130, K=8, parts=(4, 8))),
    (test_conv.test_linears, dict(shape=(3, 49), C=8, Ks=(3, 70), with_partial=True)),
    *((test_conv.test_norm_silu_conv2d,
       dict(N=2, H=3, W=5, parts=(4, 8), K=8, layer=layer, with_shift=True, with_more=True))
      for layer in ((), (4, 8))),
    (test_conv.test_norm_silu_conv2d_on_tensor_cores, dict()),
    (test_conv.test_fused_winograd, dict(N=3, H=7, W=5, C=8, K=36, pad=(1, 1, 1, 1), full=True)),
    (test_conv.test_a_single_column, dict(N=3, H=14, W=14, C=36, pad=(1, 1, 1, 1), full=True)),
    (test_conv.test_winograd, dict(N=1, H=7, W=5, C=8, K=8, pad=(1, 1, 1, 1), full=True)),
]  # fmt: skip


def test_every_kernel_passes(in_race_mode, monkeypatch):
    monkeypatch.setattr(test_conv, "drawn_convolution", small_convolution)
    for test, arguments in BODIES:
        if hasattr(test, "hypothesis"):  # @given wraps the function that we call
            test = test.hypothesis.inner_test
        test(**arguments)
    all_kernels = {
        (file.name, name)
        for file in CUDA.glob("*.cu")
        for name in build.kernels(file.read_text(), str(file), CUDA)
    }
    assert in_race_mode == all_kernels, "add a line to BODIES for each missing kernel"


@pytest.mark.parametrize("precision", ["float32", "fp16", "bf16"])
def test_a_training_step_passes(emulated_cupy, tmp_path, monkeypatch, precision):
    monkeypatch.setattr(emulation, "mode", "race")
    monkeypatch.setattr(emulation, "order", 2)
    model = trainer("cupy", tmp_path)
    backend.set_precision(precision)
    used, original = set(), ladder.launch

    def launch(file, *arguments, **options):
        used.add((file, "-DSTORED" in options.get("options", ())))
        original(file, *arguments, **options)

    monkeypatch.setattr(ladder, "launch", launch)
    record = model.train_step()
    assert np.isfinite(record.losses.get()).all()
    assert (("conv6_tensor.cu", True) in used) == (precision != "float32")
