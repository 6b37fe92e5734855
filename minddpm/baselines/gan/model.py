"""A generative adversarial network (Goodfellow et al. 2014), like DCGAN (Radford et al. 2016).

A generator maps noise to images, a discriminator classifies images as real or generated, and the
two are trained against each other. Spectral normalisation (Miyato et al. 2018) keeps them in
balance: it divides every weight of the discriminator by its largest singular value. This bounds how
fast the logit changes with the image, which keeps the generator's gradient useful.

There are two differences from DCGAN. Group normalisation replaces batch normalisation, so that a
sample depends only on its own noise, in training and evaluation; and SiLU replaces ReLU.
"""

from collections.abc import Iterator

import numpy as np

from minddpm import autodiff as F
from minddpm import backend, random
from minddpm.autodiff import Function, Tensor
from minddpm.backend import Array
from minddpm.errors import InputError
from minddpm.nn import Conv2d, ConvTranspose2d, GroupNorm, Linear, Module


class Generator(Module):
    """Maps noise z [N, latent] to images [N, size, size, C] in (-1, 1)."""

    def __init__(
        self, size: int = 28, in_channels: int = 1, latent: int = 64, width: int = 64,
        groups: int = 8,
    ):  # fmt: skip
        _check(size, width, groups)
        self.config = {
            "size": size, "in_channels": in_channels, "latent": latent, "width": width,
            "groups": groups,
        }  # fmt: skip
        self.latent, self.small = latent, (size // 4, size // 4, 2 * width)
        self.linear = Linear(latent, size // 4 * (size // 4) * 2 * width)
        self.norm1 = GroupNorm(groups, 2 * width)
        self.up1 = ConvTranspose2d(2 * width, width, 4, stride=2, padding=1)
        self.norm2 = GroupNorm(groups, width)
        self.up2 = ConvTranspose2d(width, width // 2, 4, stride=2, padding=1)
        self.norm3 = GroupNorm(groups, width // 2)
        self.conv_out = Conv2d(width // 2, in_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.linear(z).reshape(z.shape[0], *self.small)
        h = self.up1(self.norm1.silu(h))
        h = self.up2(self.norm2.silu(h))
        return F.tanh(self.norm3.silu_conv(h, self.conv_out))


class Discriminator(Module):
    """Maps images [N, size, size, C] to logits [N] of being real."""

    def __init__(self, size: int = 28, in_channels: int = 1, width: int = 64):
        self.config = {"size": size, "in_channels": in_channels, "width": width}
        _check(size, width, 1)
        self.conv1 = Conv2d(in_channels, width, 4, stride=2, padding=1)
        self.conv2 = Conv2d(width, 2 * width, 4, stride=2, padding=1)
        self.conv3 = Conv2d(2 * width, 2 * width, 3, padding=1)
        self.linear = Linear(size // 4 * (size // 4) * 2 * width, 1)
        # Estimate of each weight's leading singular vector, refined by power iteration.
        self.singular = {
            name: random.ambient_normal(layer.weight.shape[-1:], random.INIT)
            for name, layer in self.layers()
        }
        self.improve_singular(rounds=10)

    def layers(self) -> Iterator[tuple[str, Conv2d | Linear]]:
        """Yield (name, layer) for every layer; all weights are normalised."""
        for name in ("conv1", "conv2", "conv3", "linear"):
            yield name, getattr(self, name)

    def improve_singular(self, rounds: int = 1) -> None:
        """Refine the singular vectors; one iteration (round) per training step is enough.

        v = W u / |W u|;  u = W^T v / |W^T v|, with W reshaped to [inputs, outputs].
        Source: Miyato et al. 2018, Algorithm 1.
        """
        for name, layer in self.layers():
            W, u = _matrix(layer.weight.data), self.singular[name]
            for _ in range(rounds):
                u[...] = _unit(W.T @ _unit(W @ u))

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for name, layer in self.layers():
            w = SpectralNorm(self.singular[name])(layer.weight)
            if isinstance(layer, Conv2d):
                h = F.silu(F.conv2d(h, w, layer.bias, layer.stride, layer.padding))
            else:
                h = F.linear(h.reshape(h.shape[0], -1), w, layer.bias)
        return h.reshape(-1)


class SpectralNorm(Function):
    """Divides w by its largest singular value sigma = v^T W u.

    u: [outputs], an estimate of the right singular vector, treated as constant. The derivative of
    sigma with respect to W is then v u^T (Miyato et al. 2018, eq. 11), so
        gw = (gy - <gy, y> v u^T) / sigma
    """

    def __init__(self, u: Array):
        self.u = u.copy()  # power iteration changes u in place

    def forward(self, w: Array) -> Array:
        W = _matrix(w)
        u = self.u.astype(w.dtype)
        Wu = W @ u
        sigma = backend.xp.sqrt((Wu * Wu).sum())  # v^T W u = |W u| with v = W u / |W u|
        y = w / sigma
        self.save(y, Wu / sigma, u, backend.xp.asarray(sigma))
        return y

    def backward(self, gy: Array) -> tuple[Array]:
        y, v, u, sigma = self.saved
        along = (gy * y).sum() * (v[:, None] * u[None, :])
        return ((gy - along.reshape(gy.shape)) / sigma,)


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Return -log D(x) - log(1 - D(G(z))), [N], D = sigmoid(logit): Goodfellow et al., eq. 1."""
    return F.softplus(-real) + F.softplus(fake)


def generator_loss(fake: Tensor) -> Tensor:
    """Return the non-saturating loss -log D(G(z)), [N] (Goodfellow et al., section 3).

    The gradient of the minimax loss log(1 - D(G(z))) vanishes where the discriminator confidently
    rejects a generated image, which is where the generator needs it most.
    """
    return F.softplus(-fake)


def _matrix(w: Array) -> Array:
    return w.reshape(-1, w.shape[-1])


def _unit(x: Array) -> Array:
    return x / backend.xp.sqrt((x * x).sum() + np.float32(1e-24))


def _check(size: int, width: int, groups: int) -> None:
    if size % 4 or width < 2 or (width // 2) % groups:
        raise InputError(
            f"a GAN of size {size}, width {width}, {groups} groups: choose a size divisible by 4 "
            "and a width whose half is divisible by groups."
        )
