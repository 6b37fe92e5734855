"""The transposed convolution against PyTorch's, with weights converted as for files."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch_arrays import nchw, nhwc  # noqa: E402

from minddpm import Tensor, backend, nn  # noqa: E402
from minddpm.nn.torch_layout import load_torch_tensors, torch_tensors  # noqa: E402

# C_in, C_out, kernel size, stride, padding, image size
LAYERS = {
    "DCGAN's": (16, 12, 4, 2, 1, 7),
    "whole tiles": (16, 12, 4, 2, 1, 8),
    "to one channel": (16, 1, 4, 2, 1, 14),
    "of one pixel": (20, 12, 7, 1, 0, 1),
    "3x3, stride 1": (8, 12, 3, 1, 1, 9),
    "stride larger than the kernel": (3, 5, 2, 3, 0, 4),
}


@pytest.mark.parametrize("name", LAYERS)
def test_forward_and_gradients(any_backend, tmp_path, name):
    *sizes, H = LAYERS[name]
    theirs, ours = torch.nn.ConvTranspose2d(*sizes), nn.ConvTranspose2d(*sizes)
    weights = {key: q.detach().numpy() for key, q in theirs.named_parameters()}
    load_torch_tensors(ours, weights, tmp_path)
    x = np.random.default_rng(0).standard_normal((17, H, H, sizes[0]), np.float32)
    x_theirs = nchw(x).requires_grad_()
    x_ours = Tensor(backend.xp.asarray(x), requires_grad=True)
    y_theirs, y = theirs(x_theirs), ours(x_ours)
    check(y.numpy(), nhwc(y_theirs))
    gy = np.random.default_rng(1).standard_normal(y.shape, np.float32)
    y_theirs.backward(nchw(gy))
    y.backward(backend.xp.asarray(gy))
    check(backend.to_numpy(x_ours.grad), nhwc(x_theirs.grad))
    for p in ours.parameters():
        p.data = p.grad
    gradients = torch_tensors(ours)
    for key, q in theirs.named_parameters():
        check(gradients[key], q.grad.numpy())


def check(result, expected):
    assert result.shape == expected.shape
    assert np.abs(result - expected).max() <= 3e-5 * max(1, np.abs(expected).max())


def test_the_initialisation_is_that_of_pytorch():
    """Uniform with the same bound, which the largest of many weights nearly reaches."""
    theirs, ours = torch.nn.ConvTranspose2d(8, 64, 4), nn.ConvTranspose2d(8, 64, 4)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        q = q.detach().numpy()
        np.testing.assert_allclose(np.abs(p.data).max(), np.abs(q).max(), rtol=0.1)
        assert abs(p.data.mean()) < 0.2 * np.abs(q).max()
