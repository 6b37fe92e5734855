"""What the comparisons with diffusers share: the same model on both sides.

PyTorch's images are [N, C, H, W], ours [N, H, W, C], and a parameter's torch_axes is the
transposition from our layout of it to PyTorch's. Without PyTorch or diffusers all is skipped.
"""

import pytest

from minddpm import Tensor, UNet2D, backend


@pytest.fixture(autouse=True)
def _one_thread():
    """Small arrays gain nothing from threads, and every run then adds in the same order."""
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
        """Of x float32 [N, H, W, C], t [N], labels [N] or None: both [N, H, W, C_out]."""
        x_theirs = nchw(x).to(self.theirs.dtype)
        theirs = self.theirs(x_theirs, to_torch(t), to_torch(labels)).sample
        ours = self.ours(backend.xp.asarray(x), t, to_device(labels))
        return ours.numpy(), nhwc(theirs)

    def gradients(self, x, t, gy, labels=None):
        """{name: (ours, theirs)} of <gy, output>, by x and by every parameter.

        x as [N, H, W, C], parameters in PyTorch's layout.
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


def to_torch(array):
    import torch

    return None if array is None else torch.from_numpy(array.copy())


def nchw(images):
    return to_torch(images).permute(0, 3, 1, 2).contiguous()


def nhwc(images):
    return images.detach().permute(0, 2, 3, 1).numpy()


def torch_layout(p, array):
    array = backend.to_numpy(array)
    return array.transpose(p.torch_axes) if p.torch_axes else array


@pytest.fixture
def model_pair(tmp_path):
    """(config) -> Pair. The weights begin as PyTorch's layers do and reach us through files.

    Normalisations begin as the identity, and would hide an error in them: they are moved off it.
    Our zero weights at the end of each block never come into it.
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
