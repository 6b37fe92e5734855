"""Batches: one endless stream of epochs; a batch is a function of the step number."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minddpm import random
from minddpm.data import batch_indices
from minddpm.errors import InputError


def stream(n, batch_size, steps, seed=0):
    return np.concatenate([batch_indices(n, batch_size, s, seed) for s in range(steps)])


@given(st.integers(1, 20), st.integers(1, 50), st.integers(0, 3))
def test_every_epoch_holds_every_index_once(n, batch_size, seed):
    steps = -(-3 * n // batch_size)  # enough for three epochs
    result = stream(n, batch_size, steps, seed)
    assert len(result) == steps * batch_size
    for epoch in result[: len(result) // n * n].reshape(-1, n):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(n))


def test_the_stream_is_the_concatenation_of_permutations():
    epochs = [random.permutation(10, 7, random.SHUFFLE, step=e) for e in range(3)]
    np.testing.assert_array_equal(stream(10, 6, 5, seed=7), np.concatenate(epochs))


@given(st.integers(1, 9), st.integers(1, 9))
def test_the_stream_does_not_depend_on_the_batch_size(a, b):
    length = min(a, b) * 8
    np.testing.assert_array_equal(stream(10, a, 8)[:length], stream(10, b, 8)[:length])


def test_a_batch_does_not_depend_on_earlier_calls():
    forward = [batch_indices(50, 8, s, 3) for s in range(40)]
    for s in (39, 0, 17, 6, 5):
        np.testing.assert_array_equal(batch_indices(50, 8, s, 3), forward[s])


def test_writing_into_a_batch_does_not_change_the_next_one():
    before = batch_indices(8, 8, 0, 0).copy()
    batch_indices(8, 8, 0, 0)[:] = -1
    np.testing.assert_array_equal(batch_indices(8, 8, 0, 0), before)


def test_batches_are_int64_and_differ_by_seed_and_epoch():
    result = batch_indices(1000, 64, 0, 0)
    assert result.dtype == np.int64
    assert result.shape == (64,)
    assert (result != batch_indices(1000, 64, 0, 1)).any()  # another seed
    epochs = stream(1000, 1000, 2).reshape(2, 1000)
    assert (epochs[0] != epochs[1]).any()  # another epoch


@pytest.mark.parametrize(("n", "batch_size", "step"), [(0, 1, 0), (5, 0, 0), (5, 1, -1)])
def test_impossible_arguments_are_refused(n, batch_size, step):
    sentence = f"n={n}, batch_size={batch_size}, step={step}; give at least one image"
    with pytest.raises(InputError, match=sentence):
        batch_indices(n, batch_size, step, 0)
