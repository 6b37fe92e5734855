def matmul_backward(gy, x, w):
    return gy @ w.T, x.T @ gy
