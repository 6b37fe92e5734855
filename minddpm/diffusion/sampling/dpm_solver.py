"""DPM-Solver++: Lu et al. 2022, "DPM-Solver++: Fast solver for guided sampling".

In lambda = log(alpha / sigma), with alpha = sqrt(ac) and sigma = sqrt(1 - ac), the linear part of
the probability-flow ODE is solved exactly. What remains is pred_x0 as a function of lambda, which
the model gives at single points. A step from s to t, with h = lambda_t - lambda_s, is

    x_t = (sigma_t / sigma_s) x_s + alpha_t (1 - e^-h) D

and the methods differ in D, their estimate of pred_x0 over the step. D = pred_x0 at s is DDIM.
"""

from collections.abc import Iterator
from math import exp, sqrt

from minddpm.backend import Array
from minddpm.diffusion.forward import Model
from minddpm.diffusion.losses import GaussianDiffusion
from minddpm.diffusion.sampling.steps import (
    Noise,
    Spacing,
    Step,
    initial_noise,
    predict,
    reverse_steps,
    update,
)
from minddpm.diffusion.schedules import half_log_snr
from minddpm.errors import InputError
from minddpm.random import SAMPLE, Stream


def dpm_solver(
    diffusion: GaussianDiffusion, model: Model, shape: tuple[int, ...], steps: int | None = None,
    *, order: str = "2M", seed: int = 0, first: int = 0, x_T: Array | None = None,
    noise: Noise | None = None, spacing: Spacing = "leading",
) -> Iterator[Step]:  # fmt: skip
    """Sample by a method of ORDERS: multistep "2M", single-step "2S", "SDE", or first order "1".

    steps: runs of the model; 2S needs two for each of its steps. The last step, to where there is
    no noise and lambda is infinite, is always DDIM's. Only SDE draws noise: with the others the
    same x_T always gives the same image. spacing "log_snr" makes all h equal.
    Other arguments: sampling/steps.py. Raises InputError for another order.
    """
    if order not in ORDERS:
        raise InputError(f"unknown order {order!r} of dpm_solver: choose {', '.join(ORDERS)}.")
    d, x = diffusion, initial_noise(shape, seed, first, x_T)
    if order == "2S":
        return _single_step(d, model, x, steps, spacing)
    if order == "SDE":
        noise = noise or (lambda i: Stream(seed, SAMPLE, i, first))
        return _multistep(d, model, x, steps, spacing, noise)
    return _multistep(d, model, x, steps, spacing, second_order=order == "2M")


ORDERS = ("1", "2M", "2S", "SDE")


def _multistep(
    d: GaussianDiffusion, model: Model, x: Array, steps: int | None, spacing: Spacing,
    noise: Noise | None = None, second_order: bool = True,
) -> Iterator[Step]:  # fmt: skip
    """DPM-Solver++(2M), algorithm 2: the slope of pred_x0 comes from the step before.

    D = x0_s + (h / (2 h')) (x0_s - x0_r), where r is the step before and h' = lambda_s - lambda_r

    With noise, SDE-DPM-Solver++(2M): the reverse SDE, whose noise removes the errors of x_s,
        x_t = (sigma_t / sigma_s) e^-h x_s + alpha_t (1 - e^-2h) D + sigma_t sqrt(1 - e^-2h) z
    with the same D; D = x0_s would be DDPM's own step.
    """
    x0_r, lambda_r = None, 0.0
    for i, t, ac, ac_prev in reverse_steps(d, steps, spacing):
        prediction, _ = predict(d, model, x, t)
        lambda_s, h = half_log_snr(ac), half_log_snr(ac_prev) - half_log_snr(ac)
        alpha_t, sigma_t, sigma_s = sqrt(ac_prev), sqrt(1 - ac_prev), sqrt(1 - ac)
        if noise is None:
            kx, k0, sigma, z = sigma_t / sigma_s, alpha_t * (1 - exp(-h)), 0.0, None
        else:
            kx, k0 = sigma_t / sigma_s * exp(-h), alpha_t * (1 - exp(-2 * h))
            sigma, z = sigma_t * sqrt(1 - exp(-2 * h)), noise(i) if ac_prev < 1 else None
        # the step with D = x0_s, then what the slope adds to D
        x, x0_s = update(d, ac, x, prediction, k0=k0, kx=kx, sigma=sigma, z=z)
        if second_order and i > 0 and ac_prev < 1:
            x = x + k0 * h / (2 * (lambda_s - lambda_r)) * (x0_s - x0_r)
        x0_r, lambda_r = x0_s, lambda_s
        yield Step(x, x0_s, int(t))


def _single_step(
    d: GaussianDiffusion, model: Model, x: Array, steps: int | None, spacing: Spacing
) -> Iterator[Step]:
    """DPM-Solver++(2S), algorithm 1: the slope of pred_x0 comes from a point u between s and t.

    D = x0_s + (h / (2 h')) (x0_u - x0_s), where DDIM leads to u, and h' = lambda_u - lambda_s
    Both halves of a step are yielded: x_u with the t of s, then x_t with the t of u.
    """
    x_s = x0_s = ac_s = lambda_s = None
    for i, t, ac, ac_prev in reverse_steps(d, steps, spacing):
        prediction, _ = predict(d, model, x, t)
        lambda_here, lambda_next = half_log_snr(ac), half_log_snr(ac_prev)
        gain = sqrt(ac_prev) * (1 - exp(lambda_here - lambda_next))
        x_next, pred_x0 = update(d, ac, x, prediction, k0=gain, kx=sqrt((1 - ac_prev) / (1 - ac)))
        if i % 2 == 1 and ac_prev < 1:  # here x is x_u, and pred_x0 is x0_u
            h, h_u = lambda_next - lambda_s, lambda_here - lambda_s
            D = x0_s + h / (2 * h_u) * (pred_x0 - x0_s)
            x_next = sqrt((1 - ac_prev) / (1 - ac_s)) * x_s + sqrt(ac_prev) * (1 - exp(-h)) * D
        x_s, x0_s, ac_s, lambda_s, x = x, pred_x0, ac, lambda_here, x_next
        yield Step(x, pred_x0, int(t))
