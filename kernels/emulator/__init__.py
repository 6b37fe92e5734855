"""CUDA kernels on the CPU: the very same .cu files, run, checked and stepped through without a GPU.

    from minddpm.kernels.emulator import Library, device_array, device_empty

    library = Library(Path("kernel.cu").read_text(), "kernel.cu")
    library.launch("scale", (4,), (256,), (device_array(x), y, np.int32(n)), order=1)

build.py makes a library of a .cu file with g++ and shim.h; half.h, bfloat16.h and wmma.h stand for
CUDA's own cuda_fp16.h, cuda_bf16.h and mma.h; runtime.cc runs its kernels, one fiber for each CUDA
thread; memory.py guards the arrays; launch.py checks what is passed. With mode="race" every access
to memory is checked (race.cc), with mode="profile" counted (profile.py). cupy_on_cpu.py is a
stand-in for CuPy on top of that.
"""

from minddpm.kernels.emulator.launch import EmulatorError, Library
from minddpm.kernels.emulator.memory import array as device_array
from minddpm.kernels.emulator.memory import empty as device_empty

__all__ = ["EmulatorError", "Library", "device_array", "device_empty"]
