"""A variational autoencoder (Kingma and Welling 2014; Rezende, Mohamed, Wierstra 2014).

A picture x is explained by a few numbers z ~ N(0, I), from which a decoder makes p(x|z). What z was
is guessed by an encoder, q(z|x) = N(mean, variance), and both learn from the bound

    log p(x) >= ELBO = E_q log p(x|z) - KL(q(z|x) || p(z)),    z = mean + sigma noise.

The encoder tells log variance: any real number is one, and the variance stays above zero, however
small it gets.
"""

from typing import NamedTuple

import numpy as np

from minddpm import autodiff as F
from minddpm import backend
from minddpm.autodiff import Function, Tensor
from minddpm.autodiff.losses import sigmoid
from minddpm.autodiff.pointwise import unbroadcast
from minddpm.backend import Array
from minddpm.diffusion import decoder
from minddpm.errors import InputError
from minddpm.nn import Conv2d, ConvTranspose2d, Linear, Module, Parameter

LIKELIHOODS = ("bernoulli", "gaussian")


class Elbo(NamedTuple):
    """The two terms of the bound with their usual signs: loss [N], reconstruction [N], kl [N, Z].

    loss = reconstruction + beta sum kl, in nats for each picture.
    """

    loss: Tensor
    reconstruction: Tensor
    kl: Tensor


class DiscretizedGaussian(Function):
    """-log P(x0) of diffusion/decoder.py for each pixel; inputs: mean and log sigma, [N, ...].

    In float64 within: the probability of a bin is a difference of two numbers near 1.
    """

    def __init__(self, x0: Array):
        self.x0 = x0

    def _wide(self, mean: Array, log_sigma: Array) -> tuple[Array, Array, Array]:
        wide = backend.xp.zeros(mean.shape)
        return self.x0.astype("float64"), wide + mean, wide + log_sigma

    def forward(self, mean: Array, log_sigma: Array) -> Array:
        self.save(mean, log_sigma)
        return -decoder.log_likelihood(*self._wide(mean, log_sigma)).astype(mean.dtype)

    def backward(self, gy: Array) -> tuple[Array, Array]:
        mean, log_sigma = self.saved
        of_mean, of_sigma = decoder.log_likelihood_gradients(*self._wide(mean, log_sigma))
        gx = (-gy * of_mean).astype(mean.dtype), (-gy * of_sigma).astype(mean.dtype)
        return gx[0], unbroadcast(gx[1], log_sigma.shape)


class VAE(Module):
    """Pictures [N, size, size, C] in [-1, 1] <-> codes [N, latent].

    likelihood: "bernoulli" takes a pixel's grey for the probability that it is white, which is the
    usual choice for MNIST, but no distribution of grey pixels: its ELBO has no bits/dim.
    "gaussian" is that of the DDPM's last step (diffusion/decoder.py): the probability of each of
    256 grey levels under N(mean, sigma^2), one sigma for all pixels, learned.
    """

    def __init__(
        self,
        size: int = 28,
        in_channels: int = 1,
        latent: int = 16,
        width: int = 32,
        likelihood: str = "bernoulli",
    ):
        if likelihood not in LIKELIHOODS:
            raise InputError(f"unknown likelihood {likelihood!r}: {' or '.join(LIKELIHOODS)}.")
        if size % 4 or latent < 1 or width < 1:
            raise InputError(
                f"a VAE of size {size}, latent {latent}, width {width}: choose a size that 4 "
                "divides, and the others at least 1."
            )
        self.config = {
            "size": size, "in_channels": in_channels, "latent": latent, "width": width,
            "likelihood": likelihood,
        }  # fmt: skip
        self.latent, self.likelihood = latent, likelihood
        self.small = (size // 4, size // 4, 2 * width)
        features = size // 4 * (size // 4) * 2 * width
        self.conv1 = Conv2d(in_channels, width, 4, stride=2, padding=1)
        self.conv2 = Conv2d(width, 2 * width, 4, stride=2, padding=1)
        self.linear_mean = Linear(features, latent)
        self.linear_log_variance = Linear(features, latent)
        self.linear_decode = Linear(latent, features)
        self.up1 = ConvTranspose2d(2 * width, width, 4, stride=2, padding=1)
        self.up2 = ConvTranspose2d(width, width, 4, stride=2, padding=1)
        self.conv_out = Conv2d(width, in_channels, 3, padding=1)
        if likelihood == "gaussian":
            self.log_sigma = Parameter(backend.xp.zeros(1, "float32"))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(z|x), each [N, latent]."""
        h = F.silu(self.conv2(F.silu(self.conv1(x))))
        h = h.reshape(h.shape[0], -1)
        return self.linear_mean(h), self.linear_log_variance(h)

    def decode(self, z: Tensor) -> Tensor:
        """What p(x|z) is made of, [N, size, size, C]: logits of white, or the mean."""
        h = F.silu(self.linear_decode(z)).reshape(z.shape[0], *self.small)
        return self.conv_out(F.silu(self.up2(F.silu(self.up1(h)))))

    def elbo(self, x: Array, noise: Array, beta: float = 1.0) -> Elbo:
        """The bound for x [N, H, W, C] in [-1, 1] with noise [N, latent] from N(0, I).

        beta: the weight of the KL (Higgins et al. 2017); 1 is the bound itself.
        """
        mean, log_variance = self.encode(Tensor(x))
        z = mean + F.exp(log_variance * 0.5) * noise  # the gradient goes through mean and sigma
        kl = normal_kl(mean, log_variance)
        reconstruction = self.negative_log_likelihood(x, self.decode(z)).sum(axis=(1, 2, 3))
        return Elbo(reconstruction + kl.sum(axis=1) * beta, reconstruction, kl)

    def negative_log_likelihood(self, x: Array, decoded: Tensor) -> Tensor:
        """-log p(x|z) of each pixel in nats, of what decode() gave."""
        if self.likelihood == "bernoulli":
            return F.binary_cross_entropy(decoded, (x + 1) * 0.5)
        return DiscretizedGaussian(x)(decoded, self.log_sigma)

    def pictures(self, decoded: Tensor) -> Array:
        """The mean of p(x|z) in [-1, 1], [N, H, W, C]."""
        if self.likelihood == "bernoulli":
            return 2 * sigmoid(decoded.data) - 1
        return decoded.data.clip(-1, 1)


def normal_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(0, 1)) element by element, in nats.

    = (mean^2 + variance - 1 - log variance) / 2 (Kingma and Welling 2014, appendix B). All of it
    is told by the log variance l: e^l is the variance, and no logarithm is taken.
    """
    return (mean * mean + F.exp(log_variance) - 1 - log_variance) * 0.5


def active_units(means: np.ndarray, threshold: float = 0.01) -> int:
    """How many of the latent numbers tell anything about the picture.

    means: of q(z|x) for many pictures, [n, latent]. A unit is active if its mean's variance over
    the pictures is above the threshold; in a collapsed one q(z|x) is N(0, 1) for every x, and the
    decoder has learned to do without it. Source: Burda, Grosse, Salakhutdinov 2016, section 5.2.
    """
    return int((np.var(np.asarray(means, np.float64), axis=0) > threshold).sum())
