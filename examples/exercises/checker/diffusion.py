"""The checks of exercises 1 to 8; the expected results are those of minddpm.diffusion."""

from types import ModuleType

import numpy as np

from checker.compare import NotPassed, call, compare, results
from minddpm import schedules
from minddpm.diffusion import GaussianDiffusion
from minddpm.diffusion.bound import bits, normal_kl
from minddpm.diffusion.sampling import ddim, ddpm

T = 20
BETAS = schedules.linear(1000)[:: 1000 // T] * 5  # float64 [T]
AC = np.cumprod(1 - BETAS)
PREV = np.append(1.0, AC[:-1])
SHAPE = (2, 3, 4, 1)  # N, H, W, C
SHIFTED = (
    "This is one timestep too early: t is 0-based, and t = 0 is already one step, so use "
    "alphas_cumprod[t]."
)
ALPHA = "This is the result with sqrt(ac[t]) for sqrt(alpha[t]): alpha[t] is 1 - beta[t]."
WRAPPED = "At t = 0 this takes the last entry of alphas_cumprod for ac[t-1], which is 1 there."
NO_ROOT = "This is the result without {}: {} is a variance, and noise is scaled by its square root."
BATCH = (
    "A factor of shape [N] met the last axis: reshape it to [N, 1, 1, 1] before you multiply it "
    "with images."
)


def draw(count: int, shape: tuple[int, ...] = SHAPE) -> list[np.ndarray]:
    """Return arrays of standard normal numbers, the same in every run."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape) for _ in range(count)]


def at(table: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Return table[t] as [N, 1, 1, 1]."""
    return table[t].reshape(-1, 1, 1, 1)


def q_sample(student: ModuleType) -> None:
    x0, noise = draw(2)
    for t in (np.array([7, T - 1]), np.array([3, 0])):
        a, b = at(AC, t), 1 - at(AC, t)
        before = at(AC, t - 1)
        root = np.sqrt
        mistakes = {
            SHIFTED: root(before) * x0 + root(1 - before) * noise,
            NO_ROOT.format("both square roots", "1 - alphas_cumprod[t]"): a * x0 + b * noise,
            NO_ROOT.format("the second square root", "1 - alphas_cumprod[t]"): root(a) * x0
            + b * noise,
            "This is the result without the first square root: the image is scaled by "
            "sqrt(alphas_cumprod[t]).": a * x0 + root(b) * noise,
            "The two factors are swapped: the image has sqrt(alphas_cumprod[t]), which falls from "
            "nearly 1 to nearly 0.": root(b) * x0 + root(a) * noise,
            "The noise has the wrong sign.": root(a) * x0 - root(b) * noise,
            BATCH: root(AC[t]) * x0 + root(1 - AC[t]) * noise,
        }
        expected = GaussianDiffusion(BETAS).q_sample(x0, t, noise)
        compare("x_t", call(student.q_sample, x0, t, noise, AC), expected, mistakes)


def posterior(student: ModuleType) -> None:
    x0, x_t = draw(2)
    for t in (np.array([7, T - 1]), np.array([1, 0])):
        beta, ac, before = at(BETAS, t), at(AC, t), at(PREV, t)

        def mean(beta: np.ndarray, ac: np.ndarray, before: np.ndarray, alpha: np.ndarray):
            parts = np.sqrt(before) * beta * x0, np.sqrt(alpha) * (1 - before) * x_t
            return (parts[0] + parts[1]) / (1 - ac)

        wraps = at(AC, t - 1)
        late = "This is the result with ac[t] where the formula has ac[t-1]."
        swapped = np.sqrt(before) * beta * x_t + np.sqrt(1 - beta) * (1 - before) * x0
        mistakes = {
            WRAPPED: mean(beta, ac, wraps, 1 - beta),
            late: mean(beta, ac, ac, 1 - beta),
            "The two coefficients are swapped: x0 has the one with beta[t].": swapped / (1 - ac),
            ALPHA: mean(beta, ac, before, ac),
            BATCH: ((np.sqrt(PREV) * BETAS / (1 - AC))[t] * x0)
            + (np.sqrt(1 - BETAS) * (1 - PREV) / (1 - AC))[t] * x_t,
        }
        expected = GaussianDiffusion(BETAS).q_posterior_mean_variance(x0, x_t, t)
        got = results(student.posterior, ("mean", "variance"), x0, x_t, t, BETAS)
        compare("mean", got[0], expected.mean, mistakes)
        mistakes = {
            WRAPPED: beta * (1 - wraps) / (1 - ac),
            "This is beta[t], the variance of the step forwards: the posterior's is smaller.": beta,
            "This is the standard deviation: return its square.": np.sqrt(expected.variance),
            BATCH: expected.variance.reshape(-1),
        }
        compare("variance", got[1], expected.variance, mistakes)


def l_simple(student: ModuleType) -> None:
    x0, noise = draw(2)
    t = np.array([7, T - 1])
    calls = []

    def model(x_t: np.ndarray, t: np.ndarray) -> np.ndarray:
        calls.append((x_t, t))
        return 0.5 * x_t + np.asarray(t).reshape(-1, 1, 1, 1) / T

    d = GaussianDiffusion(BETAS)
    x_t = d.q_sample(x0, t, noise)
    expected = d.training_losses(model, x0, t, noise).numpy()
    calls.clear()
    got = call(student.l_simple, model, x0, t, noise, AC)
    if len(calls) != 1:
        raise NotPassed(f"The model was called {len(calls)} times: call it once, with x_t and t.")
    compare("the x_t that the model was given", calls[0][0], x_t, {
        "This is x0: the model is given the noised image.": x0,
        SHIFTED: d.q_sample(x0, t - 1, noise),
    })  # fmt: skip
    compare("the t that the model was given", np.asarray(calls[0][1]), t, {
        "The model is given the timestep itself.": t + 1,
    })  # fmt: skip
    off = model(x_t, t) - noise
    compare("the loss", got, expected, {
        "This is the sum over the pixels: take the mean.": (off**2).sum(axis=(1, 2, 3)),
        "This is the mean over the batch, too: return one loss for each image.": (off**2).mean(),
        "This is the mean over the batch alone: take axes 1, 2 and 3.": (off**2).mean(axis=0),
        "The model is compared with x0: the target is the noise.": (
            (model(x_t, t) - x0) ** 2
        ).mean(axis=(1, 2, 3)),
        "The difference is not squared.": np.abs(off).mean(axis=(1, 2, 3)),
        "This is half of the loss: equation 14 has no 1/2.": expected / 2,
    })  # fmt: skip


def p_sample(student: ModuleType) -> None:
    x_t, eps, z = draw(3)
    for t in (T - 1, 4, 0):
        beta, alpha, ac, before = BETAS[t], 1 - BETAS[t], AC[t], PREV[t]
        share, variance = beta / np.sqrt(1 - ac), beta * (1 - before) / (1 - ac)
        sigma, wraps = np.sqrt(variance), np.sqrt(beta * (1 - AC[t - 1]) / (1 - ac))

        def step(share: float, alpha: float, sigma: float) -> np.ndarray:
            return (x_t - share * eps) / np.sqrt(alpha) + sigma * z

        large = (
            "This adds noise in the last step, at t = 0, whose result is the image."
            if t == 0
            else "This is the result with sigma[t]^2 = beta[t]: the exercise asks for the "
            "posterior's variance."
        )
        mistakes = {
            large: step(share, alpha, np.sqrt(beta)),
            NO_ROOT.format("the square root of sigma[t]^2", "it"): step(share, alpha, variance),
            "This is the result with 1 - ac[t] for sqrt(1 - ac[t]).": step(
                beta / (1 - ac), alpha, sigma
            ),
            "eps is added: the step subtracts it.": step(-share, alpha, sigma),
            ALPHA: step(share, ac, sigma),
            "z is missing, or has the factor 0.": step(share, alpha, 0.0),
            WRAPPED: step(share, alpha, wraps),
        }
        d = GaussianDiffusion(BETAS[: t + 1], clip_x0=False)  # its first sampling step is at t
        sampler = ddpm(d, lambda x, t: eps, SHAPE, x_T=x_t, noise=lambda i: z)
        got = call(student.p_sample, x_t, t, eps, z, BETAS)
        compare(f"At t = {t}: x_{{t-1}}", got, next(sampler).x, mistakes)


def ddim_step(student: ModuleType) -> None:
    x_t, eps, z = draw(3)
    for t, t_prev, eta in ((T - 1, 9, 0.0), (4, -1, 0.0), (T - 1, 9, 0.7), (6, 5, 1), (4, -1, 1)):
        ac, before = AC[t], PREV[t_prev + 1]
        pred_x0 = (x_t - np.sqrt(1 - ac) * eps) / np.sqrt(ac)
        sigma = eta * np.sqrt((1 - before) / (1 - ac)) * np.sqrt(1 - ac / before)

        wraps = np.nan if t_prev < 0 else 0.0  # sigma, if it is computed with ac[-1]

        def step(before: float, sigma: float, taken: float, pred_x0: np.ndarray = pred_x0):
            with np.errstate(invalid="ignore"):
                share = np.sqrt(1 - before - taken)
            return np.sqrt(before) * pred_x0 + share * eps + sigma * z

        mistakes = {
            "For t_prev = -1 this takes the last entry of alphas_cumprod, where 1 is meant.": (
                step(AC[-1], 0.0, 0.0),
                step(AC[-1], wraps, wraps),
            ),
            "This goes to t - 1: a step of DDIM goes to t_prev.": step(AC[t - 1], 0.0, 0.0),
            "The sigma^2 under the square root in front of eps is missing.": step(before, sigma, 0),
            "Under the square root stands sigma where sigma^2 belongs.": step(before, sigma, sigma),
            NO_ROOT.format("the square root of sigma^2", "it"): step(before, sigma**2, sigma**2),
            "z is missing, though eta is not 0.": step(before, 0.0, sigma**2),
            "This has x_t in the place of pred_x0.": step(before, sigma, sigma**2, x_t),
            "pred_x0 is not divided by sqrt(ac[t]).": step(
                before, sigma, sigma**2, pred_x0 * np.sqrt(ac)
            ),
        }
        d = GaussianDiffusion(BETAS, clip_x0=False)
        levels = [(t, ac, before)]
        sampler = ddim(d, lambda x, t: eps, SHAPE, eta=eta, x_T=x_t, noise=lambda i: z,
                       spacing=lambda d, steps, levels=levels: levels)  # fmt: skip
        got = call(student.ddim_step, x_t, t, t_prev, eps, z, eta, AC)
        compare(f"At t = {t}, t_prev = {t_prev}, eta = {eta}: x", got, next(sampler).x, mistakes)


def respaced_betas(student: ModuleType) -> None:
    for visited in (np.array([0, 3, 6, T - 1]), np.array([4, 5, 11])):
        ac = AC[visited]
        before = np.append(1.0, ac[:-1])
        mistakes = {
            "These are the betas of the visited timesteps: each new beta has to cover the skipped "
            "ones, too.": BETAS[visited],
            "The first visited timestep is compared with the last one: before it, ac is 1.": (
                1 - ac / np.roll(ac, 1)
            ),
            "The first new beta is that of visited[0] alone: it covers all timesteps up to it.": (
                np.append(BETAS[visited[0]], 1 - ac[1:] / ac[:-1])
            ),
            "The ratio is upside down: ac falls, so 1 - ac[later] / ac[earlier] is positive.": (
                1 - before / ac
            ),
            "These are 1 - beta: return the betas.": ac / before,
            "These are 1 - ac: divide each ac by that of the visited timestep before.": 1 - ac,
            "These are sums of betas, which is nearly right: multiply the 1 - beta.": np.array(
                [b.sum() for b in np.split(BETAS, visited + 1)[:-1]]
            ),
        }  # fmt: skip
        got = call(student.respaced_betas, BETAS, visited)
        compare(f"For visited = {visited.tolist()}: betas", got, 1 - ac / before, mistakes)


def kl_bits_per_dim(student: ModuleType) -> None:
    mean1, mean2, a, b = draw(4)
    log_variance1, log_variance2 = a / 2 - 1, b / 2
    expected = bits(normal_kl(mean1, log_variance1, mean2, log_variance2))
    d = log_variance1 - log_variance2

    def total(d: np.ndarray, square: np.ndarray) -> np.ndarray:
        return bits((np.expm1(d) - d + square) / 2)

    square = (mean1 - mean2) ** 2
    got = call(student.kl_bits_per_dim, mean1, log_variance1, mean2, log_variance2)
    compare("KL", got, expected, {
        "This is in nats: divide by log(2).": expected * np.log(2),
        "This is the sum over the pixels: take the mean.": expected * np.prod(SHAPE[1:]),
        "This is KL(p || q): the roles of the two distributions are swapped.": bits(
            normal_kl(mean2, log_variance2, mean1, log_variance1)
        ),
        "The factor 1/2 is missing.": 2 * expected,
        "The squared difference of the means is not divided by v2.": total(d, square),
        "The squared difference of the means is divided by v1, not by v2.": total(
            d, square * np.exp(-log_variance1)
        ),
        "The logarithm has the wrong sign.": total(d, square * np.exp(-log_variance2))
        + bits(2 * d) / 2,
        "This takes exp(log_variance) for a standard deviation: it is the variance already.": bits(
            normal_kl(mean1, 2 * log_variance1, mean2, 2 * log_variance2)
        ),
        "This is the mean over the batch, too: return one number for each image.": expected.mean(),
    })  # fmt: skip
    same = call(student.kl_bits_per_dim, mean1, log_variance1, mean1, log_variance1)
    compare("KL of two equal distributions", same, np.zeros(SHAPE[0]))


def guided(student: ModuleType) -> None:
    (x_t,) = draw(1)
    t, labels, none, C = np.array([7, 9]), np.array([2, 0]), 3, SHAPE[-1]

    def model(x: np.ndarray, t: np.ndarray, labels: np.ndarray) -> np.ndarray:
        k = np.reshape(labels, (-1, 1, 1, 1)) + 1.0
        return np.concatenate([np.sin(k * x), np.cos(k * x)], axis=-1)

    output, without = model(x_t, t, labels), model(x_t, t, np.full_like(labels, none))
    for guidance in (2.5, 0.0, 1.0):
        away = guidance * (output - without)

        def parts(eps: np.ndarray, variance: np.ndarray) -> np.ndarray:
            return np.concatenate([eps[..., :C], variance[..., C:]], axis=-1)

        got = call(student.guided, model, x_t, t, labels, none, guidance)
        compare(f"With guidance {guidance}: the output", got, parts(without + away, output), {
            "The variance is guided, too: keep that of the call with the class.": without + away,
            "The variance is that of the call without a class.": parts(without + away, without),
            "This starts at eps_class: it is the w of Ho and Salimans, one more than asked. Start "
            "at eps_none.": parts(output + away, output),
            "The two predictions are swapped: guidance leads away from eps_none.": (
                parts(output - away, output),
                parts(output - away, without),
            ),
            "The difference has the wrong sign: it is eps_class - eps_none.": parts(
                without - away, output
            ),
            "The variance is missing: return all 2 C channels.": (without + away)[..., :C],
        })  # fmt: skip
