import numpy as np


def posterior(x0, x_t, t, betas):
    ac = np.cumprod(1 - betas)
    before = np.append(1.0, ac[:-1])
    coef1 = np.sqrt(before) * betas / (1 - ac)
    coef2 = np.sqrt(1 - betas) * (1 - before) / (1 - ac)
    variance = betas * (1 - before) / (1 - ac)
    a, b, variance = (table[t].reshape(-1, 1, 1, 1) for table in (coef1, coef2, variance))
    return a * x0 + b * x_t, variance
