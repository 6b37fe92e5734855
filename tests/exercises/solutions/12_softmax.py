def softmax_backward(gy, y):
    return y * (gy - (gy * y).sum(axis=-1, keepdims=True))
