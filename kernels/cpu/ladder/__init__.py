"""The convolution, rung by rung, from plain loops to fused Winograd; choose.py chooses one."""
