"""The same model as a differential equation: the probability flow of the VP-SDE.

Song et al. 2021, "Score-based generative modeling through SDEs": noising is a stochastic equation,
and an ordinary one has the same distributions at every t (equation 13). With the score as
-eps / sigma and in the variables

    y = x / alpha,    rho = sigma / alpha,    alpha = sqrt(ac), sigma = sqrt(1 - ac),

it is as simple as dy / d rho = eps(x, t) (Song, Meng, Ermon 2021, DDIM, equation 14): DDIM is its
Euler method. Without noise the way is the same forth and back: a picture has its own x_T.
"""

import math
from collections.abc import Iterator

import numpy as np

from minddpm import backend
from minddpm.backend import Array
from minddpm.diffusion.gaussian import GaussianDiffusion
from minddpm.diffusion.process import Model
from minddpm.diffusion.walk import Step, shorten, start
from minddpm.errors import InputError


class _Flow:
    """dy / d rho = eps at a point, the model being asked at any t between its own."""

    def __init__(self, diffusion: GaussianDiffusion, model: Model):
        self.diffusion, self.model = diffusion, model

    def __call__(self, x: Array, t: float, ac: float) -> tuple[Array, Array]:
        """(eps, pred_x0) of x at alphas_cumprod ac, where the model is told t."""
        d, alpha, sigma = self.diffusion, math.sqrt(ac), math.sqrt(1 - ac)
        told = backend.xp.full(len(x), t)
        prediction, _ = d.parts(d.output(self.model, x, told), x.shape[-1])
        px, po = map(float, d.x0_coefficients(ac))
        pred_x0 = px * x + po * prediction
        if d.clip_x0:
            pred_x0 = pred_x0.clip(-1, 1)
        # the eps that fits, also where the picture was clipped
        return (x - alpha * pred_x0) / sigma, pred_x0


def _rho(ac: float) -> float:
    return math.sqrt((1 - ac) / ac)


def probability_flow(
    diffusion: GaussianDiffusion,
    model: Model,
    shape: tuple[int, ...],
    steps: int | None = None,
    *,
    seed: int = 0,
    first: int = 0,
    x_T: Array | None = None,
    spacing: str = "leading",
) -> Iterator[Step]:
    """Heun's method, of second order: the slope at both ends of a step, two runs of the model.

    y' = y + (rho' - rho) eps(y);    y'' = y + (rho' - rho) (eps(y) + eps(y')) / 2
    The last step, to rho = 0 where the model was not trained, is Euler's. Arguments as for ddim.
    """
    short = shorten(diffusion, steps, spacing)
    flow, x = _Flow(diffusion, model), start(shape, seed, first, x_T)
    for t in reversed(range(short.T)):
        ac, ac_next = float(short.alphas_cumprod[t]), float(short.alphas_cumprod_prev[t])
        eps, pred_x0 = flow(x, int(short.timestep_map[t]), ac)
        y, d_rho = x / math.sqrt(ac), _rho(ac_next) - _rho(ac)
        x = math.sqrt(ac_next) * (y + d_rho * eps)
        if t > 0:
            eps_there, _ = flow(x, int(short.timestep_map[t - 1]), ac_next)
            x = math.sqrt(ac_next) * (y + d_rho / 2 * (eps + eps_there))
        yield Step(x, pred_x0, int(short.timestep_map[t]))


def probability_flow_adaptive(
    diffusion: GaussianDiffusion,
    model: Model,
    shape: tuple[int, ...],
    steps: int | None = None,
    *,
    rtol: float = 1e-3,
    seed: int = 0,
    first: int = 0,
    x_T: Array | None = None,
    spacing: str = "leading",
) -> Iterator[Step]:
    """SciPy's Runge-Kutta method of fourth and fifth order, which chooses its steps itself.

    As many steps as the tolerance rtol asks for; steps and spacing mean nothing here. The model is
    told times between its own, so it must take any real t, as UNet2D does. The steps are chosen for
    all pictures together. Raises InputError without SciPy.
    """
    try:
        from scipy.integrate import RK45
    except ImportError:
        raise InputError(
            "the adaptive solver is SciPy's, which is not installed: pip install scipy, or choose "
            "probability_flow."
        ) from None
    flow, x = _Flow(diffusion, model), start(shape, seed, first, x_T)
    # log rho runs evenly where rho itself goes from 160 to 0.01; t and it are one-to-one.
    log_rho = np.log(np.sqrt(1 / diffusion.alphas_cumprod - 1))
    told = diffusion.timestep_map
    seen = x

    def slope(u: float, y: np.ndarray) -> np.ndarray:
        """dy / d log rho = rho eps"""
        nonlocal seen
        rho = math.exp(u)
        ac = 1 / (1 + rho * rho)
        at = backend.xp.asarray((y * math.sqrt(ac)).reshape(shape).astype("float32"))
        eps, seen = flow(at, float(np.interp(u, log_rho, told)), ac)
        return rho * backend.to_numpy(eps).astype(np.float64).reshape(-1)

    y = backend.to_numpy(x).astype(np.float64).reshape(-1) / math.sqrt(diffusion.alphas_cumprod[-1])
    solver = RK45(slope, log_rho[-1], y, log_rho[0], rtol=rtol, atol=rtol)
    while solver.status == "running":
        solver.step()
        ac = 1 / (1 + math.exp(2 * solver.t))
        x = backend.xp.asarray((solver.y * math.sqrt(ac)).reshape(shape).astype("float32"))
        yield Step(x, seen, int(np.interp(solver.t, log_rho, told)))
    if solver.status == "failed":
        raise InputError(f"the adaptive solver gave up at t = {solver.t}: choose a larger rtol.")
    _, x0 = flow(x, int(told[0]), float(diffusion.alphas_cumprod[0]))
    yield Step(x0, x0, int(told[0]))


def invert(
    diffusion: GaussianDiffusion,
    model: Model,
    x0: Array,
    steps: int | None = None,
    *,
    spacing: str = "leading",
) -> Iterator[Step]:
    """DDIM upwards: the x_T from which ddim, of the same steps, comes back to about x0.

    Each step's t is where it has arrived; its x is the noisy picture there.
    y' = y + (rho' - rho) eps(x, t): the slope at the beginning, as nothing else is known yet.
    """
    short = shorten(diffusion, steps, spacing)
    flow, x = _Flow(diffusion, model), backend.xp.asarray(x0)
    told, ac_here = int(short.timestep_map[0]), 1.0
    for t in range(short.T):
        ac = float(short.alphas_cumprod[t])
        # The picture itself has no t: the model is asked as if it had the first one's.
        eps, pred_x0 = flow(x, told, ac_here if t > 0 else float(short.alphas_cumprod[0]))
        y = x / math.sqrt(ac_here) + (_rho(ac) - _rho(ac_here)) * eps
        x, ac_here, told = math.sqrt(ac) * y, ac, int(short.timestep_map[t])
        yield Step(x, pred_x0, told)
