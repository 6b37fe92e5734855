import numpy as np


def q_sample(x0, t, noise, alphas_cumprod):
    ac = alphas_cumprod[t].reshape(-1, 1, 1, 1)
    return np.sqrt(ac) * x0 + np.sqrt(1 - ac) * noise
