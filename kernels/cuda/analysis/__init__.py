"""CUDA kernels without a GPU: compilation, machine code, occupancy, roofline."""
