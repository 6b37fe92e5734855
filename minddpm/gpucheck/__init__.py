"""python -m minddpm.gpucheck: check the CUDA kernels on this GPU, and time them.

Read, in this order: arrays.py (how results are compared), convolutions.py and cases.py (the
arguments of every function), kernel_checks.py and checks.py (one row for each check), timings.py
(device events), step_timings.py with pytorch.py, rung_timings.py, step.py and ceilings.py (what is
timed), resources.py (the compiled kernels), digits.py (a training), machine.py (the GPU and
compute-sanitizer), worker.py (the process that runs the rows), supervisor.py (which replaces it if
it hangs or dies), tables.py and page.py, __main__.py (the command).
"""
