"""python -m minddpm.gpucheck: check the CUDA kernels on this GPU, and time them.

Read, in this order: arrays.py (how results are compared), cases.py (the arguments of every
function), checks.py (one row for each check), timings.py (device events), machine.py (the GPU and
compute-sanitizer), __main__.py (the command).
"""
