"""A variational autoencoder (Kingma and Welling 2014; Rezende, Mohamed, Wierstra 2014).

To generate an image x, draw a code z (a few numbers) from N(0, I); the decoder maps z to the
distribution p(x|z). The encoder maps x to q(z|x) = N(mean, variance), an approximation of the
posterior of z. Both are trained to maximise the ELBO, a lower bound:

    log p(x) >= ELBO = E_q log p(x|z) - KL(q(z|x) || p(z)),    z = mean + sigma noise.

The encoder outputs the log of the variance: it may be any real number, and its exponential, the
variance, is always positive.
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
    """The loss [N] and the terms of -ELBO: reconstruction [N], kl [N, latent].

    loss = reconstruction + beta * (sum of kl over the latent units), in nats per image.
    """

    loss: Tensor
    reconstruction: Tensor
    kl: Tensor


class DiscretizedGaussian(Function):
    """Computes -log P(x0) of each pixel from mean and log sigma; see diffusion/decoder.py.

    Computes in float64: the probability of a bin may be a difference of two numbers near 1.
    """

    def __init__(self, x0: Array):
        self.x0 = x0

    def _in_float64(self, mean: Array, log_sigma: Array) -> tuple[Array, Array, Array]:
        zeros = backend.xp.zeros(mean.shape)  # float64, also broadcasts log_sigma
        return self.x0.astype("float64"), zeros + mean, zeros + log_sigma

    def forward(self, mean: Array, log_sigma: Array) -> Array:
        self.save(mean, log_sigma)
        return -decoder.log_likelihood(*self._in_float64(mean, log_sigma)).astype(mean.dtype)

    def backward(self, gy: Array) -> tuple[Array, Array]:
        mean, log_sigma = self.saved
        d_mean, d_log_sigma = decoder.log_likelihood_gradients(*self._in_float64(mean, log_sigma))
        g_mean, g_log_sigma = -gy * d_mean, -gy * d_log_sigma
        return (
            g_mean.astype(mean.dtype),
            unbroadcast(g_log_sigma.astype(mean.dtype), log_sigma.shape),
        )


class VAE(Module):
    """Maps images [N, size, size, C] in [-1, 1] to codes [N, latent] and back.

    likelihood: "bernoulli" treats a pixel's value as the probability that it is white. This is
    usual for MNIST, but it is not a distribution over grey levels, so its ELBO cannot be stated in
    bits/dim. "gaussian" uses the decoder of the DDPM's last step (diffusion/decoder.py): each of
    the 256 grey levels has its probability under N(mean, sigma^2), with one learned sigma for all
    pixels.
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
            raise InputError(
                f"unknown likelihood {likelihood!r}: choose {' or '.join(LIKELIHOODS)}."
            )
        if size % 4 or latent < 1 or width < 1:
            raise InputError(
                f"a VAE of size {size}, latent {latent}, width {width}: choose a size divisible "
                "by 4, and latent and width of at least 1."
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
        """Return mean and log variance of q(z|x), each [N, latent]."""
        h = F.silu(self.conv2(F.silu(self.conv1(x))))
        h = h.reshape(h.shape[0], -1)
        return self.linear_mean(h), self.linear_log_variance(h)

    def decode(self, z: Tensor) -> Tensor:
        """Return the parameter of p(x|z), [N, size, size, C]: logits of white pixels, or means."""
        h = F.silu(self.linear_decode(z)).reshape(z.shape[0], *self.small)
        return self.conv_out(F.silu(self.up2(F.silu(self.up1(h)))))

    def elbo(self, x: Array, noise: Array, beta: float = 1.0) -> Elbo:
        """Return loss and terms of -ELBO for x [N, H, W, C] in [-1, 1] and noise [N, latent].

        noise: drawn from N(0, I). beta: the weight of the KL (Higgins et al. 2017); with beta = 1
        the loss is -ELBO.
        """
        mean, log_variance = self.encode(Tensor(x))
        z = mean + F.exp(log_variance * 0.5) * noise  # the gradient goes through mean and sigma
        kl = normal_kl(mean, log_variance)
        reconstruction = self.negative_log_likelihood(x, self.decode(z)).sum(axis=(1, 2, 3))
        return Elbo(reconstruction + kl.sum(axis=1) * beta, reconstruction, kl)

    def negative_log_likelihood(self, x: Array, decoded: Tensor) -> Tensor:
        """Return -log p(x|z) of each pixel in nats; decoded: the result of decode()."""
        if self.likelihood == "bernoulli":
            return F.binary_cross_entropy(decoded, (x + 1) * 0.5)
        return DiscretizedGaussian(x)(decoded, self.log_sigma)

    def mean_image(self, decoded: Tensor) -> Array:
        """Return the mean of p(x|z) in [-1, 1], [N, H, W, C]; decoded: the result of decode()."""
        if self.likelihood == "bernoulli":
            return 2 * sigmoid(decoded.data) - 1
        return decoded.data.clip(-1, 1)


def normal_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return KL(N(mean, variance) || N(0, 1)) element by element, in nats.

    It equals (mean^2 + variance - 1 - log variance) / 2 (Kingma and Welling 2014, appendix B). As
    log variance is given, no logarithm is computed.
    """
    return (mean * mean + F.exp(log_variance) - 1 - log_variance) * 0.5


def active_units(means: np.ndarray, threshold: float = 0.01) -> int:
    """Return the number of latent units that carry information about the image.

    means: the means of q(z|x) for many images, [n, latent]. A unit is active if the variance of its
    mean over the images exceeds the threshold. A collapsed unit has q(z|x) = N(0, 1) for every x,
    and the decoder has learned to ignore it.
    Source: Burda, Grosse, Salakhutdinov 2016, section 5.2.
    """
    return int((np.var(np.asarray(means, np.float64), axis=0) > threshold).sum())
