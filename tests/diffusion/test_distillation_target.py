"""The target of progressive distillation: one step of the student equals two of the teacher."""

import numpy as np
import pytest

from minddpm import GaussianDiffusion, backend, samplers
from minddpm.diffusion.distillation import distillation_target, two_steps
from minddpm.diffusion.sampling.steps import timesteps
from minddpm.diffusion.schedules import cosine, linear

MEAN, VARIANCE = 0.3, 0.04  # of the pixels of the data, which are Gaussian
T = 40


def exact_model(d):
    """Return the best prediction of the noise in Gaussian data, E[eps | x_t]."""

    def model(x, t):
        ac = d.alphas_cumprod[t].reshape(-1, 1, 1, 1)
        return np.sqrt(1 - ac) * (x - np.sqrt(ac) * MEAN) / (ac * VARIANCE + 1 - ac)

    return model


def path_factor(ac, to):
    """Return the factor by which a DDIM step from ac changes the deviation x - sqrt(ac) MEAN.

    With the exact model, x0 - MEAN and eps are both multiples of that deviation.
    """
    covariance = np.sqrt(ac * to) * VARIANCE + np.sqrt((1 - ac) * (1 - to))
    return covariance / (ac * VARIANCE + 1 - ac)


@pytest.mark.parametrize("schedule", [linear, cosine])
@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_a_step_to_the_target_is_two_steps_of_an_exact_teacher(schedule, steps):
    d = GaussianDiffusion(schedule(T), clip_x0=False)
    t = np.arange(T // steps - 1, T, T // steps)
    x_t = np.random.default_rng(0).standard_normal((steps, 2, 2, 1))
    x0, eps = distillation_target(d, exact_model(d), x_t, t, *two_steps(T, steps, t))

    half = T // steps // 2
    ac_of = np.append(1.0, d.alphas_cumprod)  # at the number of noisings
    for i in range(steps):
        ac, middle, end = (ac_of[i * 2 * half + n] for n in (2 * half, half, 0))
        deviation = x_t[i] - np.sqrt(ac) * MEAN
        wanted = path_factor(ac, middle) * path_factor(middle, end) * deviation
        arrived = np.sqrt(end) * x0[i] + np.sqrt(1 - end) * eps[i] - np.sqrt(end) * MEAN
        np.testing.assert_allclose(arrived, wanted, rtol=1e-6, atol=1e-6)
    alpha, sigma = (np.sqrt(a[t]).reshape(-1, 1, 1, 1) for a in (ac_of[1:], 1 - ac_of[1:]))
    np.testing.assert_allclose(alpha * x0 + sigma * eps, x_t, atol=1e-6)


@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
@pytest.mark.parametrize("clip_x0", [True, False])
def test_a_perfect_student_walks_the_path_of_its_teacher(any_backend, prediction, clip_x0):
    """Both by samplers.ddim, also where the steps do not divide T; the teacher is no linear map."""
    T, steps = 1000, 16
    teacher = GaussianDiffusion(cosine(T), prediction, clip_x0=clip_x0)
    student = GaussianDiffusion(cosine(T), "v", clip_x0=False)
    shape = (3, 4, 4, 1)

    def model(x, t):
        return backend.xp.sin(3 * x + 0.01 * backend.xp.asarray(t, "float32")[0])

    def perfect(x, t):
        t = backend.to_numpy(t)
        x0, eps = distillation_target(teacher, model, x, t, *two_steps(T, steps, t))
        return student.target(x0, t, eps)

    theirs = list(samplers.ddim(teacher, model, shape, 2 * steps, spacing="trailing"))[1::2]
    ours = list(samplers.ddim(student, perfect, shape, steps, spacing="trailing"))
    for our, their in zip(ours, theirs, strict=True):
        x = backend.to_numpy(their.x)
        np.testing.assert_allclose(backend.to_numpy(our.x), x, atol=2e-4 * np.abs(x).max())


def test_the_ends_of_two_steps():
    visited = timesteps(1000, 4, "trailing")
    assert visited.tolist() == [249, 499, 749, 999]
    middle, end = two_steps(1000, 4, visited)
    assert middle.tolist() == [124, 374, 624, 874]
    assert end.tolist() == [-1, 249, 499, 749]
    assert [ends.tolist() for ends in two_steps(1000, 1, np.array([999]))] == [[499], [-1]]
