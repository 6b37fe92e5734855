"""Run, check and debug the unmodified .cu files on the CPU, without a GPU.

    from minddpm.kernels.emulator import Library, device_array, device_empty

    library = Library(Path("kernel.cu").read_text(), "kernel.cu")
    library.launch("scale", (4,), (256,), (device_array(x), y, np.int32(n)), order=1)

The files, in the order of their use:

    build.py        compiles a .cu file with g++ and links it with machine/
    machine/        C++: CUDA's declarations (shim.h) and PTX instructions (ptx.h), the scheduler,
                    which runs each CUDA thread as a fiber (runtime.cc), race detection (race.cc),
                    counting (profile.cc)
    memory.py       device arrays between guard pages
    launch.py       Library: checks the arguments of a launch and runs it
    profile.py      the cost of each line, for mode="profile"
    arithmetic.py   the number of floating-point operations, for mode="profile"
    page.py         both as an HTML page beside the source; drawing.py draws a warp's addresses
    notation.py     a launch as text; __main__.py is the command that writes the page
    cupy_on_cpu/    a stand-in for CuPy built on all this
"""

from minddpm.kernels.emulator.launch import EmulatorError, Library
from minddpm.kernels.emulator.memory import array as device_array
from minddpm.kernels.emulator.memory import empty as device_empty

__all__ = ["EmulatorError", "Library", "device_array", "device_empty"]
