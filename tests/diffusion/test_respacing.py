"""Timesteps by improved-diffusion's strings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sampler_models import BOTH, SHAPE, process, rough_model

from minddpm.diffusion.sampling.respacing import section_timesteps
from minddpm.diffusion.sampling.steps import visited_timesteps
from refusals import refused


def by_hand(T, counts):
    """Walk each section with a fractional stride, as improved-diffusion does."""
    found, start = [], 0
    for i, count in enumerate(counts):
        length = T // len(counts) + (1 if i < T % len(counts) else 0)
        stride, at = (length - 1) / (count - 1) if count > 1 else 1, 0.0
        for _ in range(count):
            found.append(start + round(at))
            at += stride
        start += length
    return found


@given(st.integers(2, 400), st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_sections(T, counts):
    if all(count <= T // len(counts) for count in counts) and sum(counts) > 1:
        assert section_timesteps(T, None, ",".join(map(str, counts))).tolist() == by_hand(T, counts)


def test_known_sections():
    found = section_timesteps(300, None, "10,15,20")
    assert found.tolist() == by_hand(300, [10, 15, 20])
    assert found[[0, 9, 10, 24, 25, 44]].tolist() == [0, 99, 100, 199, 200, 299]
    assert section_timesteps(1000, None, "4").tolist() == [0, 333, 666, 999]


@pytest.mark.parametrize(("T", "count", "stride"), [(1000, 25, 40), (1000, 50, 20), (10, 4, 3)])
def test_an_integer_stride(T, count, stride):
    found = section_timesteps(T, None, f"ddim{count}")
    assert found.tolist() == [i * stride for i in range(count)]


@pytest.mark.parametrize("spacing", ["1", "ddim1"])
def test_a_single_timestep_is_the_last(spacing):
    assert section_timesteps(1000, None, spacing).tolist() == [999]


@pytest.mark.parametrize(
    ("spacing", "words"),
    [
        ("ddim7", ["no integer stride", "choose"]),
        ("ddim0", ["no integer stride"]),
        ("ddim", ["write ddim25"]),
        ("ddim2,3", ["write ddim25"]),
        ("6,", ["write ddim25"]),
        ("1.5", ["write ddim25"]),
        ("6,7", ["7 timesteps of a section of 6", "1 .. 6"]),
        ("0,3", ["0 timesteps"]),
        ("13", ["13 timesteps of a section of 12"]),
    ],
)
def test_a_string_without_a_meaning_is_refused(spacing, words):
    with refused(spacing, *words):
        visited_timesteps(process(), None, spacing)


@BOTH
def test_samplers_take_the_string_in_place_of_steps(sampler):
    assert [s.t for s in sampler(process(), rough_model, SHAPE, spacing="ddim4")] == [9, 6, 3, 0]
    with refused("states the number of steps", "leave out steps"):
        list(sampler(process(), rough_model, SHAPE, 4, spacing="ddim4"))
