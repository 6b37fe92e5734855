"""python -m minddpm.gpucheck: whether the CUDA kernels are right on this GPU, and how fast.

Read, in this order: arrays.py (how a result is compared), cases.py (what the kernels are given),
checks.py (one row for each), timings.py (device events), machine.py, __main__.py (the command).
"""
