import numpy as np


def p_sample(x_t, t, eps, z, betas):
    ac = np.cumprod(1 - betas)
    before = ac[t - 1] if t > 0 else 1.0
    sigma = np.sqrt(betas[t] * (1 - before) / (1 - ac[t]))
    mean = (x_t - betas[t] / np.sqrt(1 - ac[t]) * eps) / np.sqrt(1 - betas[t])
    return mean + sigma * z
