import numpy as np


def l_simple(model, x0, t, noise, alphas_cumprod):
    ac = alphas_cumprod[t].reshape(-1, 1, 1, 1)
    x_t = np.sqrt(ac) * x0 + np.sqrt(1 - ac) * noise
    return ((noise - model(x_t, t)) ** 2).mean(axis=(1, 2, 3))
