import numpy as np


def guided(model, x_t, t, labels, none, guidance):
    C = x_t.shape[-1]
    output, without = model(x_t, t, labels), model(x_t, t, np.full_like(labels, none))
    eps = without[..., :C] + guidance * (output[..., :C] - without[..., :C])
    return np.concatenate([eps, output[..., C:]], axis=-1)
