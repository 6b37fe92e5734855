"""Drawing: image sizes, exact pixel values, and bad input."""

import numpy as np
import pytest
from PIL import Image

from minddpm import drawing
from minddpm.errors import InputError


def batch(N=3, H=4, W=5, C=1, value=1.0):
    return np.full((N, H, W, C), value, np.float32)


# grid


@pytest.mark.parametrize(
    ("N", "columns", "cells"),
    [(1, None, (1, 1)), (4, None, (2, 2)), (5, None, (3, 2)), (64, None, (8, 8)), (5, 5, (5, 1)),
     (5, 2, (2, 3)), (2, 3, (3, 1))],
)  # fmt: skip
def test_grid_size(N, columns, cells):
    image = drawing.grid(batch(N), columns, pad=2, scale=3)
    assert image.mode == "L"
    assert image.size == (cells[0] * (5 * 3 + 2) + 2, cells[1] * (4 * 3 + 2) + 2)


def test_grid_puts_every_pixel_in_its_place():
    pixels = np.arange(3 * 2 * 2 * 1).reshape(3, 2, 2, 1)
    result = np.asarray(drawing.grid(pixels / 127.5 - 1, columns=2, pad=1, scale=1))
    g = drawing.GUTTER
    expected = [
        [g, g, g, g, g, g, g],
        [g, 0, 1, g, 4, 5, g],
        [g, 2, 3, g, 6, 7, g],
        [g, g, g, g, g, g, g],
        [g, 8, 9, g, g, g, g],
        [g, 10, 11, g, g, g, g],
        [g, g, g, g, g, g, g],
    ]
    np.testing.assert_array_equal(result, expected)


def test_enlargement_repeats_pixels():
    images = np.array([[-1.0, 1.0], [0.0, 0.5]]).reshape(1, 2, 2, 1)
    result = np.asarray(drawing.grid(images, pad=0, scale=3))
    expected = np.array([[0, 255], [128, 191]]).repeat(3, axis=0).repeat(3, axis=1)
    np.testing.assert_array_equal(result, expected)


def test_the_mapping_does_not_depend_on_the_range_of_the_batch():
    dim = np.asarray(drawing.grid(batch(1, value=-0.5), pad=0))
    assert (dim == 64).all()
    assert (np.asarray(drawing.grid(batch(1, value=1.7), pad=0)) == 255).all()


def test_colour():
    images = batch(2, C=3, value=-1)
    images[1] = (1, 0, -1)
    image = drawing.grid(images, pad=0, scale=1)
    assert image.mode == "RGB"
    assert image.getpixel((0, 0)) == (0, 0, 0)
    assert image.getpixel((5, 0)) == (255, 128, 0)


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (batch()[0], r"shape \(4, 5, 1\): give \[N, H, W, C\]"),
        (batch(C=2), r"shape \(3, 4, 5, 2\): give .* C 1 or 3"),
        ([[0.0]], "shape list: give"),
        (batch(N=0), "give at least one pixel"),
        (batch(value=np.nan), "NaN in 60 of 60 values.*lower the learning rate"),
        (batch().astype(np.uint8), "uint8 .*give it floats"),
    ],
)
def test_images_that_cannot_be_drawn_are_refused(images, sentence):
    with pytest.raises(InputError, match=sentence):
        drawing.grid(images)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"columns": 0}, "columns=0: give at least 1, or None"),
        ({"pad": -1}, "pad=-1, scale=2: give a pad of at least 0"),
        ({"scale": 0}, "pad=2, scale=0: give a pad of at least 0 and a scale of at least 1"),
    ],
)
def test_impossible_grid_arguments_are_refused(options, sentence):
    with pytest.raises(InputError, match=sentence):
        drawing.grid(batch(), **options)


# strip


def test_strip_has_a_row_for_each_image_and_a_column_for_each_time():
    frames = [np.full((2, 1, 1, 1), t) for t in (-1.0, 0.0, 1.0)]
    for frame in frames:
        frame[1] /= 2
    result = np.asarray(drawing.strip(frames, pad=0, scale=1))
    np.testing.assert_array_equal(result, [[0, 128, 255], [64, 128, 191]])


@pytest.mark.parametrize("C", [1, 3])
def test_labels_stand_above_their_columns(C):
    frames = [batch(2, 28, 28, C, value) for value in (-1, 0, 1)]
    plain = np.asarray(drawing.strip(frames))
    labelled = np.asarray(drawing.strip(frames, ["t=0", "", "t=999"]))
    head = labelled.shape[0] - plain.shape[0]
    assert 10 < head < 30
    np.testing.assert_array_equal(labelled[head:], plain)
    ink = labelled[:head].reshape(head, -1, C)[..., 0] < 128
    columns = np.flatnonzero(ink.any(axis=0))
    assert columns.min() >= 2
    assert not ((columns > 60) & (columns < 116)).any()  # the middle label is empty
    assert 116 < columns.max() < 176


def test_long_labels_are_drawn_smaller_and_do_not_overlap():
    frames = [batch(1, 28, 28)] * 2
    image = np.asarray(drawing.strip(frames, ["t=99999999", "t=99999999"]))
    head = image.shape[0] - (28 * 2 + 4)
    gap = image[:head, 59]  # between the two columns
    assert (gap == 255).all()


@pytest.mark.parametrize(
    ("frames", "labels", "sentence"),
    [
        ([], None, r"shapes \[\]: give at least one"),
        ([batch(2), batch(3)], None, "give at least one, all of one shape"),
        ([batch(), batch()], ["t=0"], "1 labels for 2 frames: give one for each frame"),
    ],
)
def test_impossible_strips_are_refused(frames, labels, sentence):
    with pytest.raises(InputError, match=sentence):
        drawing.strip(frames, labels)


# files


def test_png_round_trip(tmp_path):
    image = drawing.grid(batch(4, C=3, value=0.3))
    drawing.save_png(image, tmp_path / "new" / "a.png")
    with Image.open(tmp_path / "new" / "a.png") as read:
        assert read.format == "PNG"
        np.testing.assert_array_equal(np.asarray(read), np.asarray(image))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]


def test_a_failed_save_leaves_the_previous_file(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"previous")

    def fail(self, file, **options):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(InputError, match=r"a\.png could not be written .*free some space"):
        drawing.save_png(drawing.grid(batch()), path)
    assert path.read_bytes() == b"previous"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("C", [1, 3])
def test_gif_frames_values_and_times(tmp_path, C):
    values = (-1.0, 0.0, 0.5, 1.0)
    drawing.save_gif([batch(4, C=C, value=v) for v in values], tmp_path / "a.gif", 80, 2000)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 4
        assert gif.info["loop"] == 0
        for i, (pixel, duration) in enumerate([(0, 80), (128, 80), (191, 80), (255, 2000)]):
            gif.seek(i)
            assert gif.info["duration"] == duration
            frame = np.asarray(gif.convert("L"))
            expected = np.asarray(drawing.grid(batch(4, C=1, value=values[i])))
            np.testing.assert_array_equal(frame, expected)
            assert frame[5, 5] == pixel


def test_a_gif_of_one_frame(tmp_path):
    drawing.save_gif([batch()], tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.size == drawing.grid(batch()).size


@pytest.mark.parametrize(
    ("frames", "times", "sentence"),
    [
        ([], {}, "give at least one"),
        ([batch(2), batch(3)], {}, "all of one shape"),
        ([batch()], {"frame_ms": 0}, "frame_ms=0, hold_ms=2000: give at least 10 milliseconds"),
        ([batch()], {"hold_ms": 5}, "frame_ms=80, hold_ms=5: give at least 10 milliseconds"),
    ],
)
def test_impossible_gifs_leave_no_file(tmp_path, frames, times, sentence):
    with pytest.raises(InputError, match=sentence):
        drawing.save_gif(frames, tmp_path / "a.gif", **times)
    assert list(tmp_path.iterdir()) == []


# curve


def draw(tmp_path, series, **options):
    drawing.curve(series, tmp_path / "a.png", "Title", "x", "y", **options)
    with Image.open(tmp_path / "a.png") as image:
        return np.asarray(image.convert("RGB")).astype(int)


def pixels_of(image, colour):
    """Return the rows and columns of the pixels of a line's colour in the plotting area."""
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    close = np.abs(image - rgb).max(axis=2) < 40
    return np.nonzero(
        close[drawing.TOP : drawing.HEIGHT - drawing.BOTTOM, drawing.LEFT : -drawing.RIGHT]
    )


def test_a_rising_line_rises_and_spans_the_area(tmp_path):
    image = draw(tmp_path, {"a": ([0, 1], [0, 1])})
    assert image.shape == (drawing.HEIGHT, drawing.WIDTH, 3)
    y, x = pixels_of(image, drawing.COLOURS[0])
    width, height = (
        drawing.WIDTH - drawing.LEFT - drawing.RIGHT,
        drawing.HEIGHT - drawing.TOP - drawing.BOTTOM,
    )
    assert x.min() < 3
    assert x.max() > width - 4
    # 5% of the range is free below and above
    np.testing.assert_allclose([y.max(), y.min()], [height * 21 / 22, height / 22], atol=3)
    assert np.corrcoef(x, y)[0, 1] < -0.99


def test_an_exponential_is_straight_on_a_log_axis(tmp_path):
    x = np.arange(50)
    curved = pixels_of(draw(tmp_path, {"a": (x, np.exp(x / 5))}), drawing.COLOURS[0])
    straight = pixels_of(draw(tmp_path, {"a": (x, np.exp(x / 5))}, log_y=True), drawing.COLOURS[0])
    assert np.corrcoef(*straight)[0, 1] < -0.999
    assert np.corrcoef(*curved)[0, 1] > -0.98


def test_a_power_is_straight_on_two_log_axes(tmp_path):
    x = np.arange(1, 201)
    half = draw(tmp_path, {"a": (x, x**3.0)}, log_y=True)
    both = draw(tmp_path, {"a": (x, x**3.0)}, log_y=True, log_x=True)
    assert np.corrcoef(*pixels_of(half, drawing.COLOURS[0]))[0, 1] > -0.98
    assert np.corrcoef(*pixels_of(both, drawing.COLOURS[0]))[0, 1] < -0.999
    # Vertical grid lines are at round numbers, on a linear and on a logarithmic x axis.
    width = drawing.WIDTH - drawing.LEFT - drawing.RIGHT
    places = [(half, (v - 1) / 199) for v in (40, 80, 120)]
    places += [(both, np.log10(v) / np.log10(200)) for v in (2, 5, 10, 20, 50, 100)]
    for image, part in places:
        near = drawing.LEFT + round(width * part)
        darkness = 255 - image[drawing.TOP : -drawing.BOTTOM, near - 1 : near + 2].astype(int)
        assert np.median(darkness.max(axis=(1, 2))) > 10, part


def test_every_series_has_its_colour_in_the_plot_and_the_legend(tmp_path):
    series = {name: ([0, 1, 2], [i, i + 1, i]) for i, name in enumerate("abc")}
    image = draw(tmp_path, series)
    for colour in drawing.COLOURS[:3]:
        assert len(pixels_of(image, colour)[0]) > 500
        rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (np.abs(image[: drawing.TOP] - rgb).max(axis=2) < 20).sum() > 40


def test_a_legend_too_long_for_a_row_has_two(tmp_path):
    names = [f"VAE-{i}, 10.7% grey" for i in range(6)]
    image = draw(tmp_path, {name: ([0, 1], [i, i]) for i, name in enumerate(names)})
    head = image[: drawing.TOP - 4]
    for colour in drawing.COLOURS[:6]:
        rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (np.abs(head - rgb).max(axis=2) < 20).sum() > 40
    dark = (head.min(axis=2) < 128).any(axis=0)
    assert not dark[-10:].any()


def test_one_point_is_a_dot_and_a_constant_is_a_horizontal_line(tmp_path):
    y, x = pixels_of(draw(tmp_path, {"a": ([3], [4])}), drawing.COLOURS[0])
    assert 4 < np.ptp(x) < 12
    assert 4 < np.ptp(y) < 12
    y, x = pixels_of(draw(tmp_path, {"a": ([0, 9], [0, 0])}), drawing.COLOURS[0])
    assert np.ptp(y) < 4
    assert np.ptp(x) > 700


@pytest.mark.parametrize("log_y", [False, True])
def test_missing_points_are_left_out(tmp_path, log_y):
    gaps = {"a": ([0, 1, 2, 3], [np.nan, 1, np.nan, 5]), "b": ([0, 3], [np.nan, np.nan])}
    without_gaps = {"a": ([1, 3], [1, 5]), "b": ([], [])}
    result = draw(tmp_path, gaps, log_y=log_y)
    np.testing.assert_array_equal(result, draw(tmp_path, without_gaps, log_y=log_y))


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (0, 1, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (0, 9999, ["0", "2,000", "4,000", "6,000", "8,000"]),
        (-0.03, 0.05, ["-0.02", "0.00", "0.02", "0.04"]),
        (1e-7, 3e-7, ["1e-07", "1.5e-07", "2e-07", "2.5e-07", "3e-07"]),
    ],
)
def test_ticks_are_round_numbers(low, high, texts):
    ticks = drawing._ticks(low, high)
    assert [text for _, text in ticks] == texts
    np.testing.assert_allclose([v for v, _ in ticks], [float(t.replace(",", "")) for t in texts])


@pytest.mark.parametrize("low", [-7.3, 0.0, 0.123, 31.0])
def test_there_are_always_some_ticks_within_the_limits(low):
    for width in (0.01, 0.1, 0.99, 1.0, 1.7, 2.99, 3.01, 8.0, 20.0):
        for ticks in (drawing._ticks(low, low + width), drawing._log_ticks(low, low + width)):
            values = [v for v, _ in ticks]
            assert 3 <= len(values) <= 12, (low, width, ticks)
            assert low - 1e-6 <= min(values) <= max(values) <= low + width + 1e-6
            assert len({text for _, text in ticks}) == len(ticks)


@pytest.mark.parametrize(
    ("series", "options", "sentence"),
    [
        ({}, {}, r"a\.png: no series has a point; give at least one"),
        ({"loss": ([], [])}, {}, r"a\.png: no series has a point; give at least one"),
        ({"loss": ([1], [np.nan])}, {}, r"a\.png: no series has a point"),
        ({"loss": ([0, 1], [1])}, {}, "series 'loss' has 2 xs and 1 ys: give equally many"),
        ({"loss": ([0, 1], [1, np.inf])}, {}, "series 'loss' .*infinite value: leave that point"),
        ({"loss": ([0, np.inf], [1, 1])}, {}, "series 'loss' .*infinite value"),
        ({"loss": ([0, 1], [1, 0])}, {"log_y": True}, "series 'loss' has values .*log_y=False"),
        ({"loss": ([0, 1], [1, 1])}, {"log_x": True}, "series 'loss' has values .*log_x=False"),
    ],
)
def test_impossible_curves_leave_no_file(tmp_path, series, options, sentence):
    with pytest.raises(InputError, match=sentence):
        drawing.curve(series, tmp_path / "a.png", "Title", "x", "y", **options)
    assert list(tmp_path.iterdir()) == []
