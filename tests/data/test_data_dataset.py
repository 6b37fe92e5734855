"""The pixel mappings, exact for all 256 values, and bad data sets."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minddpm.data import ImageDataset, to_float, to_uint8
from minddpm.errors import InputError

IMAGES = np.zeros((3, 4, 5, 1), np.uint8)
LABELS = np.array([0, 1, 9])


def test_to_uint8_inverts_to_float_for_all_256_values():
    pixels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_uint8(to_float(pixels)), pixels)


def test_to_float_is_x_over_127_5_minus_1():
    pixels = np.arange(256, dtype=np.uint8)
    values = to_float(pixels)
    assert values.dtype == np.float32
    assert (values[0], values[255]) == (-1, 1)
    np.testing.assert_allclose(values, np.arange(256) / 127.5 - 1, atol=1e-7)
    assert to_float(IMAGES).shape == IMAGES.shape


@given(st.floats(-1, 1), st.sampled_from([np.float32, np.float64]))
def test_to_uint8_takes_the_nearest_pixel_value(value, dtype):
    result = int(to_uint8(np.array([value], dtype))[0])
    assert abs(result - (value + 1) * 127.5) <= 0.5 + 1e-4


def test_to_uint8_clips():
    values = np.array([-np.inf, -5, -1.01, 1.01, 5, np.inf])
    np.testing.assert_array_equal(to_uint8(values), [0, 0, 0, 255, 255, 255])


def test_to_uint8_does_not_change_its_argument():
    values = np.array([3.0, -3.0], np.float32)
    to_uint8(values)
    np.testing.assert_array_equal(values, [3, -3])


def test_nan_is_refused():
    with pytest.raises(InputError, match=r"NaN in 1 of 2 values.*lower the learning rate"):
        to_uint8(np.array([0, np.nan]))


@pytest.mark.parametrize("wrong", [np.zeros(2, np.uint8), np.zeros(2, int), [0.0, 1.0]])
def test_to_uint8_accepts_only_floats(wrong):
    with pytest.raises(InputError, match="give it floats in"):
        to_uint8(wrong)


@pytest.mark.parametrize("wrong", [np.zeros(2, np.float32), np.zeros(2, np.int64), [0, 1]])
def test_to_float_accepts_only_pixels(wrong):
    with pytest.raises(InputError, match="give it pixels, as uint8"):
        to_float(wrong)


def test_good_data_sets_are_accepted():
    assert len(ImageDataset(IMAGES, LABELS, "here")) == 3
    assert ImageDataset(np.zeros((1, 4, 5, 3), np.uint8), None, "here").labels is None


@pytest.mark.parametrize(
    ("images", "labels", "sentence"),
    [
        (IMAGES.astype(float), LABELS, r"images are float64 \[3, 4, 5, 1\]; give uint8"),
        (IMAGES[..., 0], LABELS, r"images are uint8 \[3, 4, 5\]; give uint8 \[n, H, W, C\]"),
        (np.zeros((3, 4, 5, 2), np.uint8), LABELS, "give uint8 .* with C 1 or 3"),
        (IMAGES.tolist(), LABELS, "images are list; give uint8"),
        (IMAGES[:0], None, "there is no image .*give some"),
        (IMAGES, LABELS.astype(np.int32), r"labels are int32 \[3\]; give int64"),
        (IMAGES, LABELS[:, None], r"labels are int64 \[3, 1\]; give int64"),
        (IMAGES, [0, 1, 2], "labels are list; give int64"),
        (IMAGES, LABELS[:2], "3 images but 2 labels; give the two files that belong together"),
        (IMAGES, np.array([0, -1, 2]), "label -1 is negative; number the classes from 0"),
    ],
)
def test_bad_data_sets_are_refused(images, labels, sentence):
    with pytest.raises(InputError, match=f"^some/place: .*{sentence}"):
        ImageDataset(images, labels, "some/place")
