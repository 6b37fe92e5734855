"""The probability-flow ODE of the VP-SDE.

Song et al. 2021, "Score-based generative modeling through stochastic differential equations".
Noising is a stochastic differential equation, and an ordinary one has the same distribution at
every t (equation 13). With the score -eps / sigma, and in the variables

    y = x / alpha,    rho = sigma / alpha,    alpha = sqrt(ac), sigma = sqrt(1 - ac),

it becomes dy / d rho = eps(x, t) (Song, Meng, Ermon 2021, DDIM, equation 14): DDIM is its Euler
method. Without noise the path can be followed in both directions: every image has its own x_T.
"""

import math
from collections.abc import Iterator

import numpy as np

from minddpm import backend
from minddpm.backend import Array
from minddpm.diffusion.forward import Model
from minddpm.diffusion.losses import GaussianDiffusion
from minddpm.diffusion.reverse import eps_coefficients, pred_x0_coefficients
from minddpm.diffusion.sampling.steps import (
    Spacing,
    Step,
    initial_noise,
    predict,
    reverse_steps,
)
from minddpm.errors import InputError


def probability_flow(
    diffusion: GaussianDiffusion, model: Model, shape: tuple[int, ...], steps: int | None = None,
    *, seed: int = 0, first: int = 0, x_T: Array | None = None, spacing: Spacing = "leading",
) -> Iterator[Step]:  # fmt: skip
    """Sample by Heun's method, of second order: the slope at both ends of a step, two model runs.

    y' = y + (rho' - rho) eps(y);    y'' = y + (rho' - rho) (eps(y) + eps(y')) / 2
    The last step, to rho = 0 where the model was not trained, is Euler's, which leads to pred_x0.
    Arguments: sampling/steps.py.
    """
    d, x = diffusion, initial_noise(shape, seed, first, x_T)
    visited = list(reverse_steps(d, steps, spacing))
    for i, t, ac, ac_prev in visited:
        eps, pred_x0 = flow(d, model, x, t, ac)
        if ac_prev == 1:
            x = pred_x0  # y - rho eps, without the rounding of two large numbers
        else:
            y, d_rho = x / math.sqrt(ac), rho(ac_prev) - rho(ac)
            x = math.sqrt(ac_prev) * (y + d_rho * eps)
            next_eps, _ = flow(d, model, x, visited[i + 1][1], ac_prev)
            x = math.sqrt(ac_prev) * (y + d_rho / 2 * (eps + next_eps))
        yield Step(x, pred_x0, int(t))


def invert(
    diffusion: GaussianDiffusion, model: Model, x0: Array, steps: int | None = None, *,
    spacing: Spacing = "leading", t_ahead: bool = False,
) -> Iterator[Step]:  # fmt: skip
    """Go from images to noise by DDIM: to the x_T from which ddim returns to about x0.

    y' = y + (rho' - rho) eps(x, t): Euler's method, with the slope at the beginning of each step.
    Each Step has the t that was reached, and the noisy image there.
    t_ahead: tell the model the t that the step leads to, with the noise of where it begins, and
    keep the model's eps where pred_x0 was clipped; diffusers' DDIMInverseScheduler does so.
    Raises InputError for t_ahead with a model that predicts x0, whose image has no eps.
    """
    d, x, t_here = diffusion, backend.xp.asarray(x0), None
    if t_ahead and d.prediction == "x0":
        raise InputError("t_ahead needs a model that predicts epsilon or v: leave it out for x0.")
    for _, t, ac, ac_here in reversed(list(reverse_steps(d, steps, spacing))):
        if t_ahead:
            prediction, _ = predict(d, model, x, t)
            a, b = map(float, pred_x0_coefficients(d.prediction, ac_here))
            c, e = map(float, eps_coefficients(d.prediction, ac_here))
            pred_x0, eps = d.limit_x0(a * x + b * prediction), c * x + e * prediction
            x = math.sqrt(ac) * pred_x0 + math.sqrt(1 - ac) * eps
        else:
            # The image itself has no t: the first step uses the slope of the first timestep.
            at = (t, ac) if t_here is None else (t_here, ac_here)
            eps, pred_x0 = flow(d, model, x, *at)
            y = x / math.sqrt(ac_here) + (rho(ac) - rho(ac_here)) * eps
            x = math.sqrt(ac) * y
        t_here = t
        yield Step(x, pred_x0, int(t))


def flow(d: GaussianDiffusion, model: Model, x: Array, t: float, ac: float) -> tuple[Array, Array]:
    """Return (eps, pred_x0) at x, where alphas_cumprod is ac; the model gets t, any real number."""
    prediction, _ = predict(d, model, x, t)
    a, b = map(float, pred_x0_coefficients(d.prediction, ac))
    pred_x0 = a * x + b * prediction
    pred_x0 = d.limit_x0(pred_x0)
    # x = sqrt(ac) pred_x0 + sqrt(1 - ac) eps: the eps that fits, also where pred_x0 was clipped
    return (x - math.sqrt(ac) * pred_x0) / math.sqrt(1 - ac), pred_x0


def rho(ac: float) -> float:
    """Return rho = sigma / alpha."""
    return math.sqrt((1 - ac) / ac)


def probability_flow_adaptive(
    diffusion: GaussianDiffusion, model: Model, shape: tuple[int, ...], steps: int | None = None,
    *, rtol: float = 1e-3, seed: int = 0, first: int = 0, x_T: Array | None = None,
    spacing: Spacing = "leading",
) -> Iterator[Step]:  # fmt: skip
    """Sample by SciPy's Runge-Kutta method of orders 4 and 5, which chooses its own steps.

    It takes as many steps as the tolerance rtol needs; steps and spacing are ignored. The model
    gets times between its own, so it must accept any real t, as UNet2D does. All images share the
    steps. Raises InputError without SciPy.
    """
    try:
        from scipy.integrate import RK45
    except ImportError:
        raise InputError(
            "the adaptive solver is SciPy's, which is not installed: pip install scipy, or choose "
            "probability_flow."
        ) from None
    d, x = diffusion, initial_noise(shape, seed, first, x_T)
    # In log rho the steps are of similar length, while rho falls from 160 to 0.01.
    log_rho = np.log(np.sqrt(1 / d.alphas_cumprod - 1))
    latest = x  # pred_x0

    def slope(u: float, y: np.ndarray) -> np.ndarray:
        """Return dy / d log rho = rho eps."""
        nonlocal latest
        ac = 1 / (1 + math.exp(2 * u))
        at = backend.xp.asarray((y * math.sqrt(ac)).reshape(shape).astype("float32"))
        eps, latest = flow(d, model, at, float(np.interp(u, log_rho, d.timestep_map)), ac)
        return math.exp(u) * backend.to_numpy(eps).astype(np.float64).reshape(-1)

    y = backend.to_numpy(x).astype(np.float64).reshape(-1) / math.sqrt(d.alphas_cumprod[-1])
    solver = RK45(slope, log_rho[-1], y, log_rho[0], rtol=rtol, atol=rtol)
    while solver.status == "running":
        solver.step()
        ac = 1 / (1 + math.exp(2 * solver.t))
        x = backend.xp.asarray((solver.y * math.sqrt(ac)).reshape(shape).astype("float32"))
        yield Step(x, latest, int(np.interp(solver.t, log_rho, d.timestep_map)))
    if solver.status == "failed":
        raise InputError(f"the adaptive solver gave up at t = {solver.t}: choose a larger rtol.")
    t = int(d.timestep_map[0])
    _, x0 = flow(d, model, x, t, float(d.alphas_cumprod[0]))
    yield Step(x0, x0, t)
