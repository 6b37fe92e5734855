"""The likelihood by the probability-flow ODE: exact up to its steps, where bound.py has a bound.

Song et al. 2021, "Score-based generative modeling through stochastic differential equations",
section 4.3. In the angle phi with alpha = cos(phi), sigma = sin(phi), the ODE of sampling/ode.py is

    dx / d phi = v(x) = (alpha x - pred_x0(x)) / sigma    (Salimans and Ho 2022, appendix D),

and along its path the density changes by the divergence of v (Song et al., equation 39):

    log p(x_0) = log N(x_T; 0, I) + integral over phi of div v,    div v = sum_i d v_i / d x_i

The whole Jacobian dv/dx of an image of D pixels would take D backward passes. Its trace is the mean
of e^T (dv/dx) e over random signs e (equation 40; Hutchinson 1990), which takes one.

The path begins at t = 0, where x_0 still has the noise sigma_0; no model is trained below it. So p
is the density of images with this noise. Each of two ways to make x_0 of an image x0 of 256 levels
gives an upper bound on -log P(x0):

    uniform   x_0 = alpha_0 (x0 + u), u uniform in the bin of the level, whose width is 2/255:
              -log P(x0) <= E[ -log p(x_0) ] - D log(alpha_0 2/255)    (Jensen; Theis et al. 2016)
              The usual way. It charges for the noise: p spreads a level over sigma_0, and what
              lies outside the bin is lost, for a black pixel, too.
    decoder   x_0 of q(x_0 | x0), and from it to the level by L_0 of the bound:
              -log P(x0) <= E[ L_0 + log q(x_0 | x0) - log p(x_0) ]
              It differs from the bound of bound.py in L_T + ... + L_1 alone, so compare these two.
"""

import math

import numpy as np

from minddpm import backend, random
from minddpm.autodiff import Tensor
from minddpm.backend import Array
from minddpm.diffusion.bound import VariationalBound
from minddpm.diffusion.decoder import HALF_BIN
from minddpm.diffusion.forward import Model, floating
from minddpm.diffusion.reverse import pred_x0_coefficients
from minddpm.errors import InputError
from minddpm.progress_bar import tqdm


def uniform_bits(
    d: VariationalBound, model: Model, x0: Array, steps: int, seed: int = 0, first: int = 0,
    progress: bool = False,
) -> np.ndarray:  # fmt: skip
    """Return -log P(x0) of each image in bits/dim by uniform dequantisation, float64 [N].

    x0 [N, H, W, C] in [-1, 1], of 256 levels. The random numbers of image i depend on
    (seed, first + i) alone. model, steps and progress: see log_density.
    """
    x0 = floating(x0)
    N, shape, alpha = len(x0), x0.shape[1:], math.sqrt(d.alphas_cumprod[0])
    u = [random.uniform(shape, seed, random.DEQUANTISE, first + i) for i in range(N)]
    u = (2 * backend.xp.stack(u) - 1).astype(x0.dtype) * HALF_BIN
    log_p = log_density(d, model, alpha * (x0 + u), steps, seed, first, progress)
    return _bits(-log_p, x0) - math.log2(alpha * 2 * HALF_BIN)


def decoder_bits(
    d: VariationalBound, model: Model, x0: Array, steps: int, seed: int = 0, first: int = 0,
    progress: bool = False,
) -> np.ndarray:  # fmt: skip
    """Return -log P(x0) of each image in bits/dim by q(x_0 | x0) and L_0, float64 [N].

    x_0 and L_0 are those of bits_per_dim with this seed. Arguments: see uniform_bits.
    """
    x0, zeros = floating(x0), np.zeros(len(x0), np.int64)
    noise = random.normal(x0.shape, seed, random.BOUND, 0, first * x0[0].size)
    x = d.q_sample(x0, zeros, noise.astype(x0.dtype))
    L_0 = backend.to_numpy(d.vb_terms_bpd(model, x0, x, zeros).terms)
    log_q = log_normal(noise) - x0[0].size * math.log(1 - d.alphas_cumprod[0]) / 2
    return L_0 + _bits(log_q - log_density(d, model, x, steps, seed, first, progress), x0)


def log_density(
    d: VariationalBound, model: Model, x: Array, steps: int, seed: int = 0, first: int = 0,
    progress: bool = False,
) -> np.ndarray:  # fmt: skip
    """Return log p(x) of each image x at t = 0, in nats, float64 [N].

    model: maps a Tensor and t, any real numbers [N], to a Tensor. steps: of the Runge-Kutta method
    of order 4, each with four runs of the model and as many backward passes. phi grows by the same
    factor in each, since the density changes fastest near t = 0. Each run has signs e of its own:
    the path of x does not depend on them, so their errors average out. progress: show a bar.
    """
    x, integral = floating(x), np.zeros(len(x))
    angles = _angles(d)
    grid = np.geomspace(angles[0], angles[-1], steps + 1).tolist()
    bar = tqdm(range(steps), unit="step", leave=False, disable=not progress)
    for i in bar:
        h, v, vs, divergences = grid[i + 1] - grid[i], 0.0, [], []
        for stage, at in enumerate((0.0, 0.5, 0.5, 1.0)):
            e = _signs(x, seed, 4 * i + stage, first)
            v, e_J = velocity(d, model, x + at * h * v, grid[i] + at * h, e)
            vs.append(v)
            divergences.append(_sums(e * e_J))
        x = x + _runge_kutta(h, *vs)
        integral += _runge_kutta(h, *divergences)
    return log_normal(x) + integral


def velocity(
    d: VariationalBound, model: Model, x: Array, phi: float, e: Array
) -> tuple[Array, Array]:
    """Return v(x) = (cos(phi) x - pred_x0) / sin(phi) and e^T dv/dx, both [N, H, W, C].

    pred_x0 is clipped if the process does so, as in the sampler probability_flow; a clipped pixel
    has the derivative 0. Raises InputError if the process limits pred_x0 by a function instead.
    """
    if callable(d.clip_x0):
        raise InputError(
            "the process limits pred_x0 by a function, whose derivative is unknown: choose clip_x0 "
            "True or False."
        )
    alpha, sigma = math.cos(phi), math.sin(phi)
    t = float(np.interp(phi, _angles(d), d.timestep_map))
    leaf = Tensor(x, requires_grad=True)
    output = model(leaf, backend.xp.full(len(x), t))
    d.check_output(output, x)
    prediction, _ = d.split(output, x.shape[-1])
    a, b = map(float, pred_x0_coefficients(d.prediction, alpha**2))
    pred_x0 = a * x + b * prediction.data
    g = e * (abs(pred_x0) <= 1) if d.clip_x0 else e
    prediction.backward(b * g)
    return (alpha * x - d.limit_x0(pred_x0)) / sigma, (alpha * e - a * g - leaf.grad) / sigma


def log_normal(x: Array) -> np.ndarray:
    """Return log N(x; 0, I) of each image, in nats, float64 [N]."""
    return -(_sums(x.astype("float64") ** 2) + x[0].size * math.log(2 * math.pi)) / 2


def _angles(d: VariationalBound) -> np.ndarray:
    """Return phi at each t, float64 [T]: rises from almost 0 to almost pi / 2."""
    return np.arctan2(np.sqrt(1 - d.alphas_cumprod), np.sqrt(d.alphas_cumprod))


def _signs(x: Array, seed: int, draw: int, first: int) -> Array:
    """Return 1 or -1 for each pixel, with equal probabilities."""
    z = random.normal(x.shape, seed, random.TRACE, draw, first * x[0].size)
    return backend.xp.where(z < 0, -1, 1).astype(x.dtype)


def _runge_kutta(h: float, k1: Array, k2: Array, k3: Array, k4: Array) -> Array:
    """Return the change over a step of length h, of the four slopes of the method of order 4."""
    return h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def _sums(x: Array) -> np.ndarray:
    """Return the sum over each image, float64 [N] on the host."""
    return backend.to_numpy(x.reshape(len(x), -1).sum(axis=1, dtype="float64"))


def _bits(nats: np.ndarray, x0: Array) -> np.ndarray:
    """Return nats of whole images in bits/dim."""
    return nats / (x0[0].size * math.log(2))
