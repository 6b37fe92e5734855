"""CUDA's own compiler takes every kernel, for every architecture, without spilling registers."""

import pytest

from minddpm.kernels import cuda
from minddpm.kernels.cuda import compile as nvrtc
from minddpm.kernels.emulator.build import kernels

pytestmark = pytest.mark.skipif(not nvrtc.available(), reason="pip install nvidia-cuda-nvrtc")


@pytest.mark.parametrize("architecture", nvrtc.ARCHITECTURES)
@pytest.mark.parametrize("file", cuda.files(), ids=lambda file: file.name)
def test_every_kernel_compiles_without_spills(file, architecture):
    needed = nvrtc.compile(file, architecture).kernels
    assert set(needed) == set(kernels(file.read_text(), file.name, file.parent))
    for name, resources in needed.items():
        assert resources.registers > 0, name
        assert resources.spills == 0, name
        assert resources.shared <= 48 << 10, name


def test_what_does_not_compile_is_said(tmp_path):
    wrong = tmp_path / "wrong.cu"
    wrong.write_text('extern "C" __global__ void f(float* x) {\n    *x = INFINITY;\n}\n')
    with pytest.raises(RuntimeError, match=r"wrong\.cu for sm_80:\nwrong\.cu\(2\)"):
        nvrtc.compile(wrong, 80)


def test_spills_are_seen(tmp_path):
    # 200 numbers that are alive at once, in a kernel that may have 32 registers
    many = tmp_path / "many.cu"
    many.write_text(
        'extern "C" __global__ void __launch_bounds__(1024, 2) f(float* x) {\n'
        "    float a[200];\n"
        "    for (int i = 0; i < 200; i++) a[i] = x[i * 1024 + threadIdx.x];\n"
        "    __syncthreads();\n"
        "#pragma unroll\n"
        "    for (int i = 0; i < 200; i++) x[i * 1024 + threadIdx.x] = a[199 - i] * a[i];\n"
        "}\n"
    )
    needed = nvrtc.compile(many, 75)["f"]
    assert needed.spills > 0
