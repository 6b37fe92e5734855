def unbroadcast(gy, shape):
    gy = gy.sum(axis=tuple(range(gy.ndim - len(shape))))
    repeated = [i for i, n in enumerate(shape) if n < gy.shape[i]]
    return gy.sum(axis=tuple(repeated), keepdims=True)


def add_backward(gy, a, b):
    return unbroadcast(gy, a.shape), unbroadcast(gy, b.shape)
