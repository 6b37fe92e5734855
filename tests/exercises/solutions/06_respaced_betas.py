import numpy as np


def respaced_betas(betas, visited):
    ac = np.cumprod(1 - betas)[visited]
    return 1 - ac / np.append(1.0, ac[:-1])
