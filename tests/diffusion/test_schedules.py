"""The noise schedules, and the timesteps of a shortened process."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minddpm.diffusion.sampling import log_snr_timesteps, timesteps
from minddpm.diffusion.schedules import (
    BY_NAME,
    check_betas,
    cosine,
    linear,
    log_snr,
    quadratic,
)
from minddpm.errors import InputError
from refusals import refused

SPACINGS = ("leading", "linspace", "trailing")

# The fraction of the image's variance remaining in x_T if 1e-4 .. 0.02 are not rescaled.
UNSCALED = {100: 0.364, 200: 0.132, 300: 0.0481, 500: 0.0064, 1000: 4.0e-5}


def product(betas):
    """Return (1 - beta_0) (1 - beta_1) ..., as a plain loop."""
    p = 1.0
    for beta in betas:
        p *= 1 - beta
    return p


# --- betas ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", BY_NAME.values(), ids=BY_NAME)
@pytest.mark.parametrize("T", [21, 50, 1000])
def test_betas_are_float64_in_the_open_interval_and_increase(schedule, T):
    betas = schedule(T)
    assert betas.dtype == np.float64
    assert betas.shape == (T,)
    assert 0 < betas.min() < betas[-1] < 1
    first = 1 if schedule is log_snr else 0  # its first beta is all of the noise at t = 0
    assert (np.diff(betas[first:]) >= 0).all()


@pytest.mark.parametrize("T", [21, 100, 250, 1000, 4000])
def test_linear_is_a_straight_line_between_rescaled_ends(T):
    expected = [(1e-4 + (0.02 - 1e-4) * t / (T - 1)) * 1000 / T for t in range(T)]
    np.testing.assert_allclose(linear(T), expected, rtol=1e-12)


def test_linear_has_the_ends_of_the_paper():
    assert linear(1000)[0] == pytest.approx(1e-4, rel=1e-12)
    assert linear(1000)[-1] == pytest.approx(0.02, rel=1e-12)
    assert linear(250)[0] == pytest.approx(4e-4, rel=1e-12)
    assert linear(250)[-1] == pytest.approx(0.08, rel=1e-12)


@pytest.mark.parametrize(("T", "remaining"), UNSCALED.items())
def test_the_rescaled_linear_schedule_ends_in_noise_for_any_t(T, remaining):
    """Unscaled, x_T contains part of the image; rescaled, it is noise for any T."""
    unscaled = linear(T, 1e-4 * T / 1000, 0.02 * T / 1000)  # undoes the factor 1000 / T
    assert unscaled[-1] == pytest.approx(0.02, rel=1e-12)
    assert product(unscaled) == pytest.approx(remaining, rel=0.02)
    assert product(linear(T)) < 4.2e-5


def test_linear_accepts_other_ends():
    betas = linear(1000, 0.001, 0.01)
    assert (betas[0], betas[-1]) == pytest.approx((0.001, 0.01))


def cosine_ac(t, T, offset=0.008):
    """Return f(t) / f(0), equation 17 of Nichol and Dhariwal, in Python floats."""

    def f(t):
        return math.cos((t / T + offset) / (1 + offset) * math.pi / 2) ** 2

    return f(t) / f(0)


@pytest.mark.parametrize("T", [2, 10, 100, 1000])
def test_cosine_is_the_squared_cosine_up_to_the_clipped_end(T):
    betas = cosine(T)
    for t in range(T - 1):  # the last beta is clipped, so the last product is not the cosine's
        assert product(betas[: t + 1]) == pytest.approx(cosine_ac(t + 1, T), rel=1e-9)


@pytest.mark.parametrize("T", [1, 10, 1000])
def test_cosine_ends_at_the_largest_beta_allowed(T):
    """The cosine is 0 at the end, which would make the last beta 1."""
    assert cosine_ac(T, T) < 1e-30
    assert cosine(T)[-1] == 0.999
    assert cosine(T, max_beta=0.9)[-1] == 0.9
    assert (cosine(T, max_beta=0.5) <= 0.5).all()


def test_cosine_uses_the_given_offset():
    assert cosine(100, offset=0.1)[0] == pytest.approx(1 - cosine_ac(1, 100, 0.1), rel=1e-9)


@pytest.mark.parametrize("T", [1, 2, 10, 1000])
def test_log_snr_is_a_straight_line_between_its_ends(T):
    betas = log_snr(T, 9.0, -7.0)
    for t in range(T):
        ac = product(betas[: t + 1])
        line = 9.0 - 16.0 * t / max(1, T - 1)
        assert math.log(ac / (1 - ac)) == pytest.approx(line, abs=1e-8)


@pytest.mark.parametrize("T", [21, 100, 1000])
def test_quadratic_is_the_square_of_a_straight_line(T):
    low, high = math.sqrt(1e-4 * 1000 / T), math.sqrt(0.02 * 1000 / T)
    expected = [(low + (high - low) * t / (T - 1)) ** 2 for t in range(T)]
    np.testing.assert_allclose(quadratic(T), expected, rtol=1e-12)


@pytest.mark.parametrize("schedule", BY_NAME.values(), ids=BY_NAME)
@pytest.mark.parametrize("T", [0, -3])
def test_a_schedule_without_steps_is_refused(schedule, T):
    with refused(f"T = {T}", "at least 1"):
        schedule(T)


@pytest.mark.parametrize("schedule", BY_NAME.values(), ids=BY_NAME)
def test_more_steps_than_a_table_may_have_are_refused(schedule):
    with refused("T = 1000001", "at most 1,000,000"):
        schedule(1_000_001)


@pytest.mark.parametrize("schedule", [linear, quadratic])
def test_too_small_a_t_gives_a_beta_of_one(schedule):
    """0.02 * 1000 / T reaches 1 at T = 20."""
    assert schedule(21)[-1] < 1
    with refused("between 0 and 1", "T above 20"):
        schedule(20)


@pytest.mark.parametrize("betas", [[0.1, 0.0], [0.1, 1.0], [-0.1], [1.5], [0.1, float("nan")]])
def test_a_beta_outside_the_open_interval_is_refused(betas):
    with refused("between 0 and 1"):
        check_betas(betas)


@pytest.mark.parametrize("betas", [[], [[0.1, 0.2]], 0.1])
def test_betas_of_another_shape_are_refused(betas):
    with refused("one number for each"):
        check_betas(betas)


# --- timesteps -----------------------------------------------------------------------------------

T_AND_STEPS = st.integers(1, 1000).flatmap(lambda T: st.tuples(st.just(T), st.integers(1, T)))
many_examples = settings(max_examples=200, deadline=None)


@many_examples
@given(T_AND_STEPS, st.sampled_from(SPACINGS))
def test_timesteps_have_the_right_count_increase_and_are_in_range(T_and_steps, spacing):
    T, steps = T_and_steps
    subset = timesteps(T, steps, spacing)
    assert subset.dtype == np.int64
    assert subset.shape == (steps,)
    assert subset[0] >= 0
    assert subset[-1] < T
    assert (np.diff(subset) > 0).all()


@many_examples
@given(T_AND_STEPS)
def test_leading_takes_every_nth_timestep_from_zero(T_and_steps):
    T, steps = T_and_steps
    expected = [i * (T // steps) for i in range(steps)] if steps > 1 else [T - 1]
    assert timesteps(T, steps).tolist() == expected


@many_examples
@given(T_AND_STEPS)
def test_linspace_lies_within_half_a_step_of_the_even_grid(T_and_steps):
    T, steps = T_and_steps
    subset = timesteps(T, steps, "linspace").tolist()
    assert subset[0] == (0 if steps > 1 else T - 1)
    for i in range(1, steps):
        assert abs(subset[i] - Fraction(i * (T - 1), steps - 1)) <= Fraction(1, 2)


@many_examples
@given(T_AND_STEPS)
def test_trailing_lies_within_half_a_step_of_the_grid_back_from_the_end(T_and_steps):
    T, steps = T_and_steps
    subset = timesteps(T, steps, "trailing").tolist()
    assert subset[-1] == T - 1
    for i in range(steps):  # i steps of T / steps back from T, then 0-based
        assert abs(subset[-1 - i] - (T - Fraction(i * T, steps) - 1)) <= Fraction(1, 2)


def test_timesteps_of_four_steps():
    assert timesteps(1000, 4).tolist() == [0, 250, 500, 750]
    assert timesteps(1000, 4, "linspace").tolist() == [0, 333, 666, 999]
    assert timesteps(1000, 4, "trailing").tolist() == [249, 499, 749, 999]


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("T", [1, 7, 1000])
def test_a_single_step_starts_at_the_last_timestep(T, spacing):
    """At t = 0 the model would expect an image with a trace of noise, but gets pure noise."""
    assert timesteps(T, 1, spacing).tolist() == [T - 1]


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("T", [1, 7, 1000])
def test_t_steps_visit_every_timestep(T, spacing):
    assert timesteps(T, T, spacing).tolist() == list(range(T))


@many_examples
@given(T_AND_STEPS, st.sampled_from(["linear", "cosine", "quadratic"]))
def test_log_snr_timesteps_have_the_right_count_increase_and_are_in_range(T_and_steps, name):
    T, steps = T_and_steps
    subset = log_snr_timesteps(np.cumprod(1 - BY_NAME[name](max(T, 21))), steps)
    assert subset.dtype == np.int64
    assert subset.shape == (steps,)
    assert (np.diff(subset) > 0).all()
    assert subset[0] >= 0
    assert subset[-1] == max(T, 21) - 1
    assert subset[0] == 0 or steps == 1


@pytest.mark.parametrize("T", [21, 1000])
def test_t_log_snr_steps_visit_every_timestep(T):
    assert log_snr_timesteps(np.cumprod(1 - cosine(T)), T).tolist() == list(range(T))


def test_log_snr_timesteps_are_even_in_lambda():
    """Up to rounding to integer t, if one even step covers several of them."""
    ac = np.cumprod(1 - linear(1000))
    lambda_ = np.log(np.sqrt(ac) / np.sqrt(1 - ac))
    subset = log_snr_timesteps(ac, 20)
    even = np.linspace(lambda_[0], lambda_[-1], 20)
    nearest = np.interp(even[::-1], lambda_[::-1], np.arange(1000.0)[::-1])[::-1]
    assert (abs(subset - nearest) <= 1).all()
    assert np.diff(lambda_[subset]).min() > 1.5 * np.diff(even)[0]  # both are negative
    # of 20 steps even in t, one covers 30% of the range of lambda
    largest = np.diff(lambda_[timesteps(1000, 20, "linspace")]).min() / (lambda_[-1] - lambda_[0])
    assert largest == pytest.approx(0.3, abs=0.01)


def test_log_snr_timesteps_have_no_steps_in_pure_noise():
    for last in (2.4e-9, 0.0):  # as the cosine schedule ends, and without any signal
        ac = np.append(np.cumprod(1 - cosine(1000))[:-1], last)
        subset = log_snr_timesteps(ac, 20)
        lambda_ = 0.5 * np.log(ac[subset[:-1]] / (1 - ac[subset[:-1]]))
        assert lambda_.min() > -5.2
        assert subset[-1] == 999


@pytest.mark.parametrize("steps", [0, 11])
def test_log_snr_steps_out_of_range_are_refused(steps):
    with refused(f"{steps} sampling steps", "choose 1 .. 10"):
        log_snr_timesteps(np.linspace(0.9, 0.1, 10), steps)


@pytest.mark.parametrize("steps", [0, -1, 11])
def test_steps_outside_1_to_t_are_refused(steps):
    with refused(f"{steps} sampling steps", "choose 1 .. 10"):
        timesteps(10, steps)


def test_timesteps_of_a_process_without_steps_are_refused():
    with refused("T = 0"):
        timesteps(0, 1)


def test_an_unknown_spacing_is_refused():
    with refused("'even'", *SPACINGS, "log_snr"):
        timesteps(10, 5, "even")


def test_impossible_ends_and_counts_are_refused():
    """A negative end has no real root, and a number of steps is an integer."""
    for call in (
        lambda: quadratic(50, -1e-4),
        lambda: linear(50.0),
        lambda: timesteps(10, 2.5),
        lambda: timesteps(10, 2.5, "linspace"),
    ):
        with pytest.raises(InputError, match="choose"):
            call()
