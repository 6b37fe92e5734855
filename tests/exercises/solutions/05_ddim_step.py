import numpy as np


def ddim_step(x_t, t, t_prev, eps, z, eta, alphas_cumprod):
    ac = alphas_cumprod[t]
    before = alphas_cumprod[t_prev] if t_prev >= 0 else 1.0
    pred_x0 = (x_t - np.sqrt(1 - ac) * eps) / np.sqrt(ac)
    sigma = eta * np.sqrt((1 - before) / (1 - ac)) * np.sqrt(1 - ac / before)
    return np.sqrt(before) * pred_x0 + np.sqrt(1 - before - sigma**2) * eps + sigma * z
