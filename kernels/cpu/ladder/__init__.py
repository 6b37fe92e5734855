"""The convolution, rung by rung, from plain loops to fused Winograd; choose.py picks one."""
