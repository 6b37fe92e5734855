"""The samplers on data whose perfect model is known, so that the answer is known as well.

For data N(m, s^2), x_t = sqrt(ac) x0 + sqrt(1 - ac) eps is N(sqrt(ac) m, V) with
V = ac s^2 + 1 - ac, and eps and x_t are jointly normal with covariance sqrt(1 - ac). So the best
guess of the noise, which is what the loss trains a model to, is

    E[eps | x_t] = sqrt(1 - ac) / V (x_t - sqrt(ac) m).
"""

import math

import numpy as np
import pytest

from minddpm import GaussianDiffusion, Tensor, backend, random, samplers
from minddpm.diffusion.sampling.steps import timesteps
from minddpm.diffusion.schedules import cosine, linear
from refusals import refused

SHAPE = (2, 8, 8, 1)
BOTH = pytest.mark.parametrize("sampler", [samplers.ddpm, samplers.ddim])


def alphas_cumprod(betas):
    left, result = 1.0, []
    for beta in betas:
        left *= 1 - beta
        result.append(left)
    return result


def perfect_model(betas, m, s):
    """(x_t, t) -> E[eps | x_t] for data N(m, s^2)."""
    left = alphas_cumprod(betas)

    def model(x, t):
        ac = backend.xp.asarray(np.array(left, np.float32))[t].reshape(-1, 1, 1, 1)
        return (1 - ac) ** 0.5 / (ac * s**2 + 1 - ac) * (x - ac**0.5 * m)

    return model


def rough_model(x, t):
    """No perfect one: it depends on x and t, and its pictures leave [-1, 1]."""
    return 2 * backend.xp.sin(3 * x) + 0.01 * t.astype("float32").reshape(-1, 1, 1, 1)


def process(prediction="epsilon", variance="fixed_small", clip=False, betas=None):
    betas = cosine(12) if betas is None else betas
    return GaussianDiffusion(betas, prediction, variance, clip_x0=clip)


def noises(count, shape=SHAPE, seed=3):
    rng = np.random.default_rng(seed)
    return [backend.xp.asarray(z) for z in rng.standard_normal((count, *shape)).astype("float32")]


def last(walk):
    *_, step = walk
    return backend.to_numpy(step.x)


def check_moments(x, mean, sd, slack=0.0):
    """Within 5 standard errors of the mean's and the standard deviation's estimates, plus slack."""
    x = backend.to_numpy(x).astype(np.float64)
    assert abs(x.mean() - mean) < 5 * sd / math.sqrt(x.size) + slack
    assert abs(x.std() - sd) < 5 * sd / math.sqrt(2 * x.size) + slack


def check_close(x, expected, tolerance=1e-5):
    """Equal to rounding of float32, relative to the largest entry."""
    x, expected = backend.to_numpy(x), backend.to_numpy(expected)
    np.testing.assert_allclose(x, expected, rtol=0, atol=tolerance * max(1, np.abs(expected).max()))


# --- the right distribution ----------------------------------------------------------------------


def test_ddpm_walks_back_through_the_distributions_of_the_forward_process(any_backend):
    """Data that is one point, s = 0: there fixed_small is exact, at every single step."""
    betas, m, shape = linear(50), 0.3, (1, 100, 100, 1)
    ac = [1.0, *alphas_cumprod(betas)]  # ac[t] is what is left before step t
    x_T = math.sqrt(ac[-1]) * m + math.sqrt(1 - ac[-1]) * noises(1, shape)[0]
    d = GaussianDiffusion(betas, variance="fixed_small", clip_x0=False)
    for step in samplers.ddpm(d, perfect_model(betas, m, 0.0), shape, seed=1, x_T=x_T):
        sd = math.sqrt(1 - ac[step.t])
        check_moments(step.x, math.sqrt(ac[step.t]) * m, sd, slack=1e-3)
    np.testing.assert_allclose(backend.to_numpy(step.x), m, atol=1e-4)


def test_fixed_large_keeps_standard_normal_data_standard_normal(any_backend):
    """Data N(0, 1) is N(0, 1) at every t; the last step adds no noise and leaves 1 - beta_0."""
    betas, shape = linear(50), (1, 100, 100, 1)
    d = GaussianDiffusion(betas, variance="fixed_large", clip_x0=False)
    for step in samplers.ddpm(d, perfect_model(betas, 0.0, 1.0), shape, seed=2):
        check_moments(step.x, 0.0, 1.0 if step.t > 0 else math.sqrt(1 - betas[0]))


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("T", [50, 400])
def test_ddpm_over_all_steps_reproduces_the_data(variance, T):
    """In between, s = 1/2, neither variance is exact, but the error falls as 1 / T.

    Followed through the recursion, the standard deviation is at most 3.7 / T off.
    """
    betas, m, s = linear(T), 0.3, 0.5
    d = GaussianDiffusion(betas, variance=variance, clip_x0=False)
    x = last(samplers.ddpm(d, perfect_model(betas, m, s), (1, 100, 100, 1), seed=3))
    check_moments(x, m, s, slack=4 / T)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_over_all_steps_reproduces_the_data(eta):
    T, m, s = 400, 0.3, 0.5
    betas = linear(T)
    d = GaussianDiffusion(betas, clip_x0=False)
    x = last(samplers.ddim(d, perfect_model(betas, m, s), (1, 100, 100, 1), eta=eta, seed=4))
    check_moments(x, m, s, slack=4 / T)


@pytest.mark.parametrize(
    ("sampler", "options"),
    [(samplers.ddpm, {}), (samplers.ddim, {}), (samplers.ddim, {"eta": 1.0})],
)
@pytest.mark.parametrize("steps", [1, 3, 50])
def test_data_that_is_one_point_is_found_in_however_few_steps(sampler, options, steps):
    betas = linear(50)
    d = GaussianDiffusion(betas, clip_x0=False)
    x = last(sampler(d, perfect_model(betas, 0.3, 0.0), SHAPE, steps, **options))
    np.testing.assert_allclose(x, 0.3, atol=2e-3)  # float32, after division by sqrt(ac_T) = 0.001


# --- DDIM ----------------------------------------------------------------------------------------


def no_noise(i):
    raise AssertionError(f"noise was asked for at step {i}")


@pytest.mark.parametrize("clipped_eps", [False, True])
def test_ddim_without_eta_depends_on_its_start_alone(clipped_eps):
    d, x_T = process(clip=True), noises(1)[0]
    pictures = [
        last(samplers.ddim(d, rough_model, SHAPE, x_T=x_T, clipped_eps=clipped_eps, **options))
        for options in ({"seed": 0}, {"seed": 1}, {"noise": no_noise})
    ]
    np.testing.assert_array_equal(pictures[0], pictures[1])
    np.testing.assert_array_equal(pictures[0], pictures[2])


def picture_and_noise(prediction, x, output, ac):
    """What the output says about x_t = sqrt(ac) x0 + sqrt(1 - ac) eps."""
    a, b = math.sqrt(ac), math.sqrt(1 - ac)
    if prediction == "epsilon":
        return (x - b * output) / a, output
    if prediction == "x0":
        return output, (x - a * output) / b
    return a * x - b * output, b * x + a * output


@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
def test_ddim_is_equation_12(any_backend, prediction):
    """x_{t-1} = sqrt(ac_{t-1}) x0 + sqrt(1 - ac_{t-1} - sigma^2) eps + sigma z."""
    betas, eta = cosine(12), 0.7
    left = [1.0, *alphas_cumprod(betas)]
    x, *z = noises(13)
    walk = samplers.ddim(
        process(prediction, clip=True), rough_model, SHAPE, eta=eta, x_T=x, noise=lambda i: z[i]
    )
    for i, step in enumerate(walk):
        prev, ac = left[step.t], left[step.t + 1]
        output = rough_model(x, backend.xp.asarray([step.t, step.t]))
        x0, eps = picture_and_noise(prediction, x, output, ac)
        sigma = eta * math.sqrt((1 - prev) / (1 - ac) * (1 - ac / prev))
        x = math.sqrt(prev) * x0.clip(-1, 1) + math.sqrt(1 - prev - sigma**2) * eps + sigma * z[i]
        check_close(step.x, x)
        x = step.x  # so that rounding does not add up


@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_ddpm_is_algorithm_2_with_equation_7(any_backend, prediction, variance):
    """x_{t-1} = (sqrt(ac_{t-1}) beta x0 + sqrt(alpha) (1 - ac_{t-1}) x_t) / (1 - ac_t) + sigma z"""
    betas = cosine(12)
    left = [1.0, *alphas_cumprod(betas)]
    x, *z = noises(13)
    walk = samplers.ddpm(
        process(prediction, variance, clip=True), rough_model, SHAPE, x_T=x, noise=lambda i: z[i]
    )
    for i, step in enumerate(walk):
        prev, ac, beta = left[step.t], left[step.t + 1], betas[step.t]
        output = rough_model(x, backend.xp.asarray([step.t, step.t]))
        x0 = picture_and_noise(prediction, x, output, ac)[0].clip(-1, 1)
        mean = math.sqrt(prev) * beta * x0 + math.sqrt(1 - beta) * (1 - prev) * x
        sigma = math.sqrt(beta if variance == "fixed_large" else beta * (1 - prev) / (1 - ac))
        x = mean / (1 - ac) + (sigma * z[i] if step.t > 0 else 0)
        check_close(step.x, x)
        check_close(step.pred_x0, x0)
        x = step.x


def two_headed(x, t):
    """rough_model, and a share of the variance that leaves [-1, 1], too."""
    v = 1.5 * backend.xp.cos(2 * x)
    return backend.xp.concatenate([rough_model(x, t), v], axis=-1)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
@pytest.mark.parametrize("steps", [None, 5])
def test_ddpm_with_the_variance_that_the_model_gives(any_backend, prediction, steps):
    """sigma = exp(((v + 1)/2 log beta + (1 - v)/2 log posterior variance) / 2), at every pixel."""
    d = process(prediction, "learned_range", clip=True)
    x, *z = noises(13)
    walk = samplers.ddpm(d, two_headed, SHAPE, steps, x_T=x, noise=lambda i: z[i])
    short = d if steps is None else d.respaced(timesteps(12, steps, "leading"))
    for i, step in enumerate(walk):
        t = short.T - 1 - i
        ac, prev, beta = (
            float(table[t])
            for table in (short.alphas_cumprod, short.alphas_cumprod_prev, short.betas)
        )
        output = two_headed(x, backend.xp.asarray([step.t, step.t]))
        x0 = picture_and_noise(prediction, x, output[..., :1], ac)[0].clip(-1, 1)
        mean = math.sqrt(prev) * beta * x0 + math.sqrt(1 - beta) * (1 - prev) * x
        share = (output[..., 1:] + 1) / 2
        small = beta * (1 - prev) / (1 - ac) if t > 0 else 1.0
        sigma = beta ** (share / 2) * small ** ((1 - share) / 2)
        x = mean / (1 - ac) + (sigma * z[i] if t > 0 else 0)
        check_close(step.x, x)
        check_close(step.pred_x0, x0)
        x = step.x
    assert step.t == 0


def test_a_learned_variance_draws_the_noise_of_the_stream():
    d = process(variance="learned_range")
    drawn = samplers.ddpm(d, two_headed, SHAPE, seed=4, first=8)
    given = samplers.ddpm(
        d, two_headed, SHAPE, x_T=random.normal(SHAPE, 4, random.X_T, first=8),
        noise=lambda i: random.normal(SHAPE, 4, random.SAMPLE, i, first=8),
    )  # fmt: skip
    for one, other in zip(drawn, given, strict=True):
        np.testing.assert_array_equal(one.x, other.x)


def test_ddim_of_a_model_with_a_variance_is_ddim_without():
    learned, fixed = process(variance="learned_range"), process()
    for eta in (0.0, 0.7):
        x = last(samplers.ddim(learned, two_headed, SHAPE, eta=eta, seed=1))
        expected = last(samplers.ddim(fixed, rough_model, SHAPE, eta=eta, seed=1))
        np.testing.assert_array_equal(x, expected)


def sigmas(walk_with):
    """The noise of each step: what x moves by if that step's z is 1 rather than 0."""
    one, zero = np.ones((1, 1, 1, 1), np.float32), np.zeros((1, 1, 1, 1), np.float32)
    still = list(walk_with(lambda i: zero))
    moved = [list(walk_with(lambda i, j=j: one if i == j else zero)) for j in range(len(still))]
    return [(moved[j][j].x - still[j].x).item() for j in range(len(still))]


EXPECTED_SIGMA = {
    "posterior": lambda beta, prev, ac: math.sqrt(beta * (1 - prev) / (1 - ac)),
    "beta": lambda beta, prev, ac: math.sqrt(beta) if prev < 1 else 0.0,
}


@pytest.mark.parametrize(
    ("sampler", "variance", "options", "expected"),
    [
        (samplers.ddpm, "fixed_small", {}, "posterior"),
        (samplers.ddpm, "fixed_large", {}, "beta"),
        (samplers.ddim, "fixed_small", {"eta": 1.0}, "posterior"),
        (samplers.ddim, "fixed_large", {"eta": 1.0}, "posterior"),  # DDIM has its own variance
    ],
)
def test_the_noise_of_each_step(sampler, variance, options, expected):
    betas, shape = cosine(12), (1, 1, 1, 1)
    ac = [1.0, *alphas_cumprod(betas)]
    d, x_T = process("x0", variance), np.zeros(shape, np.float32)
    found = sigmas(lambda z: sampler(d, lambda x, t: 0 * x, shape, x_T=x_T, noise=z, **options))
    formula = EXPECTED_SIGMA[expected]
    wanted = [formula(betas[t], ac[t], ac[t + 1]) for t in reversed(range(12))]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert found[-1] == 0


def test_eta_scales_the_noise():
    d, x_T = process("x0"), np.zeros((1, 1, 1, 1), np.float32)

    def found(eta):
        return np.array(
            sigmas(
                lambda z: samplers.ddim(
                    d, lambda x, t: 0 * x, (1, 1, 1, 1), eta=eta, x_T=x_T, noise=z
                )
            )
        )

    np.testing.assert_allclose(found(0.25), 0.25 * found(1.0), rtol=1e-5)
    np.testing.assert_array_equal(found(0.0), 0)


@pytest.mark.parametrize("steps", [None, 4])
def test_ddim_with_full_eta_is_ddpm_path_by_path(any_backend, steps):
    """Unclipped, equation 12 with eta = 1 is equation 7: same x_T and z, same pictures."""
    d, z = process(), noises(13)
    options = {"x_T": z[12], "noise": lambda i: z[i]}
    ours = samplers.ddim(d, rough_model, SHAPE, steps, eta=1.0, **options)
    theirs = samplers.ddpm(d, rough_model, SHAPE, steps, **options)
    for a, b in zip(ours, theirs, strict=True):
        check_close(a.x, b.x, 1e-3)


def test_with_clipped_eps_so_it_is_where_pictures_are_clipped():
    """DDPM's mean knows only the clipped picture; clipped_eps is what makes DDIM equal to it."""
    d, z = process(clip=True), noises(13)
    options = {"x_T": z[12], "noise": lambda i: z[i]}
    ddpm = last(samplers.ddpm(d, rough_model, SHAPE, **options))
    clipped = last(samplers.ddim(d, rough_model, SHAPE, eta=1.0, clipped_eps=True, **options))
    own = last(samplers.ddim(d, rough_model, SHAPE, eta=1.0, **options))
    check_close(clipped, ddpm, 1e-3)
    assert np.abs(own - ddpm).max() > 0.1


@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
def test_clipped_eps_makes_no_difference_where_nothing_is_clipped(prediction):
    d, x_T = process(prediction, clip=False), noises(1)[0]
    own = last(samplers.ddim(d, rough_model, SHAPE, x_T=x_T))
    clipped = last(samplers.ddim(d, rough_model, SHAPE, x_T=x_T, clipped_eps=True))
    check_close(own, clipped, 1e-3)


# --- what is yielded -----------------------------------------------------------------------------


@BOTH
def test_one_step_for_each_t_from_the_last_to_the_first(sampler):
    walk = list(sampler(process(), rough_model, SHAPE))
    assert [step.t for step in walk] == list(range(12))[::-1]
    assert all(step.x.shape == step.pred_x0.shape == SHAPE for step in walk)


@BOTH
@pytest.mark.parametrize(
    ("spacing", "expected"),
    [("leading", [8, 4, 0]), ("linspace", [11, 6, 0]), ("trailing", [11, 7, 3])],
)
def test_a_shortened_walk_visits_the_kept_steps_under_their_own_t(sampler, spacing, expected):
    told = []

    def model(x, t):
        told.append(t.tolist())
        return x

    walk = list(sampler(process(), model, SHAPE, 3, spacing=spacing))
    assert [step.t for step in walk] == expected
    assert told == [[t, t] for t in expected]  # one t for each of the two images


@BOTH
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing", "log_snr"])
def test_all_steps_asked_for_by_number_or_not_at_all(sampler, spacing):
    walks = [
        list(sampler(process(), rough_model, SHAPE, steps, seed=5, spacing=spacing))
        for steps in (None, 12)
    ]
    for a, b in zip(*walks, strict=True):
        assert a.t == b.t
        check_close(a.x, b.x, 1e-4)


@BOTH
def test_the_predicted_pictures_are_clipped_if_the_process_says_so(sampler):
    x_T = noises(1)[0]
    for clip in (True, False):
        walk = sampler(process(clip=clip), rough_model, SHAPE, x_T=x_T)
        largest = max(np.abs(step.pred_x0).max() for step in walk)
        assert (largest <= 1) == clip


@BOTH
@pytest.mark.parametrize("T", [1, 12])
def test_the_last_step_is_the_predicted_picture(sampler, T):
    """At t = 0: coef1 = 1, coef2 = 0, no noise; so nothing of x_1 itself is left in the picture."""
    *_, step = sampler(process(clip=True, betas=cosine(T)), rough_model, SHAPE)
    assert step.t == 0
    np.testing.assert_allclose(step.x, step.pred_x0, atol=1e-6)


@pytest.mark.parametrize(
    ("sampler", "options"),
    [(samplers.ddpm, {}), (samplers.ddim, {"eta": 0.5}), (samplers.ddim, {"eta": 1.0})],
)
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("steps", [12, 5, 1])
def test_noise_is_asked_for_once_a_step_but_never_for_the_last(sampler, options, variance, steps):
    asked = []

    def noise(i):
        asked.append(i)
        return np.zeros(SHAPE, np.float32)

    list(sampler(process(variance=variance), rough_model, SHAPE, steps, noise=noise, **options))
    assert asked == list(range(steps - 1))


# --- seeds ---------------------------------------------------------------------------------------


@BOTH
def test_the_same_seed_gives_the_same_picture_and_another_one_another(any_backend, sampler):
    pictures = [last(sampler(process(), rough_model, SHAPE, seed=seed)) for seed in (7, 7, 8)]
    np.testing.assert_array_equal(pictures[0], pictures[1])
    assert np.abs(pictures[0] - pictures[2]).max() > 0.1


@pytest.mark.parametrize("first", [0, 128, 5])
@pytest.mark.parametrize(
    ("sampler", "options"), [(samplers.ddpm, {}), (samplers.ddim, {"eta": 0.5})]
)
def test_a_seed_stands_for_two_streams_of_noise(any_backend, sampler, options, first):
    """x_T and the noise of step i can be drawn outside and passed in, to the same effect."""
    seeded = sampler(process(), rough_model, SHAPE, seed=7, first=first, **options)
    passed = sampler(
        process(),
        rough_model,
        SHAPE,
        x_T=random.normal(SHAPE, 7, random.X_T, first=first),
        noise=lambda i: random.normal(SHAPE, 7, random.SAMPLE, i, first),
        **options,
    )
    np.testing.assert_array_equal(last(seeded), last(passed))


@BOTH
def test_the_model_may_return_a_tensor(sampler):
    array = last(sampler(process(), rough_model, SHAPE, seed=7))
    tensor = last(sampler(process(), lambda x, t: Tensor(rough_model(x, t)), SHAPE, seed=7))
    np.testing.assert_array_equal(array, tensor)


@BOTH
def test_the_start_is_not_changed(sampler):
    x_T = noises(1)[0]
    before = x_T.copy()
    list(sampler(process(), rough_model, SHAPE, x_T=x_T))
    np.testing.assert_array_equal(x_T, before)


@BOTH
def test_steps_already_yielded_stay_as_they_were(sampler):
    """Someone may keep them all, for a GIF; the walk must not write into what it gave away."""
    copies, kept = [], []
    for step in sampler(process(), rough_model, SHAPE):
        kept.append(step)
        copies.append((step.x.copy(), step.pred_x0.copy()))
    for step, (x, pred_x0) in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(step.x, x)
        np.testing.assert_array_equal(step.pred_x0, pred_x0)


# --- bad input -----------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("steps", [0, -1, 13])
def test_steps_out_of_range_are_refused(sampler, steps):
    with refused(f"{steps} sampling steps", "choose 1 .. 12"):
        list(sampler(process(), rough_model, SHAPE, steps))


@BOTH
def test_an_unknown_spacing_is_refused(sampler):
    with refused("'even'", "leading"):
        list(sampler(process(), rough_model, SHAPE, 3, spacing="even"))


@BOTH
@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (1, 8, 8, 1), (8, 8, 1)])
def test_a_start_of_another_shape_is_refused(sampler, shape):
    with refused("x_T has shape", "make them equal"):
        list(sampler(process(), rough_model, SHAPE, x_T=np.zeros(shape, np.float32)))


@pytest.mark.parametrize("eta", [-0.1, 1.5, float("nan")])
def test_an_eta_out_of_range_is_refused(eta):
    with refused(f"eta = {eta}", "choose 0"):
        list(samplers.ddim(process(), rough_model, SHAPE, eta=eta))


@pytest.mark.parametrize("seed", [-1, 2**32, 0.5, True])
def test_a_seed_that_is_none_is_refused(seed):
    with refused("the seed", "choose 0 .."):
        list(samplers.ddpm(process(), rough_model, SHAPE, seed=seed))
