"""The same model in minddpm and in diffusers, for the tests that compare them.

PyTorch's images are [N, C, H, W], ours [N, H, W, C], and a parameter's torch_axes transposes it
from our layout to PyTorch's. Without PyTorch or diffusers these tests are skipped.
"""

import pytest
from torch_arrays import nchw, nhwc, to_torch

from minddpm import Tensor, UNet2D, backend


@pytest.fixture(autouse=True)
def _one_thread():
    """Use one thread: every run then adds in the same order, and small arrays need no more."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


class Pair:
    """diffusers' UNet2DModel (`theirs`) and our UNet2D (`ours`) with the same weights."""

    def __init__(self, theirs, ours):
        self.theirs, self.ours = theirs, ours

    def outputs(self, x, t, labels=None):
        """Return both outputs [N, H, W, C_out] for x [N, H, W, C], t [N], labels [N] or None."""
        x_theirs = nchw(x).to(self.theirs.dtype)
        theirs = self.theirs(x_theirs, to_torch(t), to_torch(labels)).sample
        ours = self.ours(backend.xp.asarray(x), t, to_device(labels))
        return ours.numpy(), nhwc(theirs)

    def gradients(self, x, t, gy, labels=None):
        """Return {name: (ours, theirs)}, the gradients of <gy, output> by x and every parameter.

        That of x is [N, H, W, C], those of parameters have PyTorch's layout.
        """
        x_theirs = nchw(x).to(self.theirs.dtype).requires_grad_()
        theirs = self.theirs(x_theirs, to_torch(t), to_torch(labels)).sample
        theirs.backward(nchw(gy).to(self.theirs.dtype))

        x_ours = Tensor(backend.xp.asarray(x), requires_grad=True)
        self.ours(x_ours, t, to_device(labels)).backward(gy)
        result = {"x": (backend.to_numpy(x_ours.grad), nhwc(x_theirs.grad))}
        parameters = zip(self.ours.named_parameters(), self.theirs.named_parameters(), strict=True)
        for (name, p), (_, q) in parameters:
            result[name] = (torch_layout(p, p.grad), q.grad.numpy())
        return result


def to_device(array):
    return None if array is None else backend.xp.asarray(array)


def torch_layout(p, array):
    """Return an array of the shape of parameter p in PyTorch's layout."""
    array = backend.to_numpy(array)
    return array.transpose(p.torch_axes) if p.torch_axes else array


@pytest.fixture
def model_pair(tmp_path):
    """Return make(config) -> Pair. PyTorch initialises the weights, and we read them from files.

    PyTorch initialises normalisations as the identity, which would hide errors: noise is added to
    them. No weight is zero, as the last ones of each block are in our own initialisation.
    """
    import torch
    from diffusers import UNet2DModel

    def make(**config):
        theirs = UNet2DModel(**config)
        with torch.no_grad():
            for name, p in theirs.named_parameters():
                if "norm" in name:
                    p.add_(0.3 * torch.randn_like(p))
        theirs.save_pretrained(tmp_path / "theirs")
        return Pair(theirs.train(), UNet2D.from_pretrained(tmp_path / "theirs").train())

    return make
