"""The hot operations, once per kernel set, under the same names and signatures in each.

reference/ is the executable specification: plain array code for NumPy and for CuPy. cpu/ is written
in Numba, cuda/ in raw CUDA; emulator/ runs the CUDA kernels on a CPU. Every kernel set uses
arrays.py, shapes.py and float32.py. This package imports only errors.py and storage/ from minddpm.
"""
