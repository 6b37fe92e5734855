"""A folder of images: every format is read, broken files are named, sub-folders give labels."""

import numpy as np
import pytest
from PIL import Image

from minddpm.data import load_folder, pixel_depth
from minddpm.errors import InputError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (8, 8), dtype=np.uint8)
RGB = RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)


def test_images_of_the_right_size_are_unchanged(tmp_path):
    save(tmp_path / "a.png", GREY)
    save(tmp_path / "b.png", RGB)
    grey = load_folder(tmp_path, 8, 1)
    np.testing.assert_array_equal(grey.images[0, :, :, 0], GREY)
    assert grey.images.dtype == np.uint8
    rgb = load_folder(str(tmp_path), 8, 3)
    np.testing.assert_array_equal(rgb.images[0], np.repeat(GREY[..., None], 3, axis=2))
    np.testing.assert_array_equal(rgb.images[1], RGB)
    assert str(tmp_path) in rgb.source


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB"])
def test_every_mode_is_read(tmp_path, mode):
    save(tmp_path / "a.tif", Image.new("RGB", (8, 8), "white").convert(mode).copy())
    np.testing.assert_allclose(load_folder(tmp_path, 8, 3).images, 255, atol=1)


def test_transparent_pixels_are_white_for_any_hidden_colour(tmp_path):
    hidden = np.zeros((8, 8, 4), np.uint8)  # black, alpha 0
    hidden[:, :4] = (255, 0, 0, 255)
    save(tmp_path / "a.png", hidden)
    image = load_folder(tmp_path, 8, 3).images[0]
    assert (image[:, 4:] == 255).all()
    assert (image[:, :4] == (255, 0, 0)).all()
    halved = load_folder(tmp_path, 4, 3).images[0]
    assert (halved[..., 0] == 255).all()  # red and white both have 255; the hidden black has not


def test_palette_transparency(tmp_path):
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([0, 0, 0, 255, 255, 255])
    save(tmp_path / "a.gif", palette, transparency=0)
    assert (load_folder(tmp_path, 8, 1).images == 255).all()


def test_a_rotated_photograph_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn clockwise by 90 degrees
    save(tmp_path / "a.png", RGB, exif=exif)
    np.testing.assert_array_equal(load_folder(tmp_path, 8, 3).images[0], np.rot90(RGB, -1))


@pytest.mark.parametrize("vertical", [False, True])
def test_images_are_cropped_to_the_centre(tmp_path, vertical):
    wide = np.zeros((4, 12), np.uint8)
    wide[:, 4:8] = 200
    save(tmp_path / "a.png", wide.T if vertical else wide)
    assert (load_folder(tmp_path, 4, 1).images == 200).all()


def test_shrinking_is_antialiased(tmp_path):
    board = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    save(tmp_path / "a.png", board)
    inner = load_folder(tmp_path, 8, 1).images[0, 1:-1, 1:-1]
    assert np.abs(inner.astype(int) - 128).max() < 8  # choosing single pixels would give 0 or 255


def test_order_and_hidden_files(tmp_path):
    """The order decides the checksum in run.json, so it must not change between versions."""
    for value, name in enumerate(["b/z.png", "a/2.png", "a/deep/1.png", "a/10.png", "c/1.PNG"]):
        save(tmp_path / name, np.full((2, 2), value, np.uint8))
    (tmp_path / ".DS_Store").write_bytes(b"x")
    save(tmp_path / ".thumbnails" / "1.png", GREY)
    dataset = load_folder(tmp_path, 2, 1)
    assert dataset.images[:, 0, 0, 0].tolist() == [3, 1, 2, 0, 4]
    assert dataset.labels.tolist() == [0, 0, 0, 1, 2]


def test_broken_files_are_named_counted_and_skipped(tmp_path, capsys):
    save(tmp_path / "good.png", GREY)
    save(tmp_path / "cut.jpg", np.zeros((64, 64), np.uint8))
    content = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) - 60])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("not an image")
    save(tmp_path / "nan.tif", Image.new("F", (8, 8), np.nan))
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    assert len(load_folder(tmp_path, 8, 1)) == 1
    stderr = capsys.readouterr().err
    for name in ("cut.jpg", "empty.png", "notes.txt", "nan.tif", "gone.png"):
        assert f"{tmp_path / name}: not a readable image, skipped" in stderr
    assert "good.png" not in stderr
    assert stderr.rstrip().endswith(f"{tmp_path}: skipped 5 of 6 files")


def test_nothing_is_printed_if_every_file_is_readable(tmp_path, capsys):
    save(tmp_path / "good.png", GREY)
    load_folder(tmp_path, 8, 1)
    assert capsys.readouterr() == ("", "")


def test_a_folder_without_readable_images_is_refused(tmp_path):
    sentence = "holds no readable image: give a folder with PNG, JPEG"
    with pytest.raises(InputError, match=sentence):
        load_folder(tmp_path, 8, 1)
    (tmp_path / "notes.txt").write_text("not an image")
    with pytest.raises(InputError, match=f"{tmp_path} {sentence}"):
        load_folder(tmp_path, 8, 1)


@pytest.mark.parametrize(
    ("size", "channels", "sentence"),
    [(0, 1, "size=0 .*give at least 1"), (8, 2, r"channels=2 .*give 1 \(grey\) or 3")],
)
def test_impossible_arguments_are_refused(tmp_path, size, channels, sentence):
    save(tmp_path / "good.png", GREY)
    with pytest.raises(InputError, match=sentence):
        load_folder(tmp_path, size, channels)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="nowhere is not a folder: give the folder"):
        load_folder(tmp_path / "nowhere", 8, 1)


def test_a_program_and_an_enormous_image_are_skipped(tmp_path, capsys, monkeypatch):
    Image.new("RGB", (8, 8)).save(tmp_path / "program.eps")
    Image.new("L", (8, 8)).save(tmp_path / "small.png")
    Image.new("L", (9, 8)).save(tmp_path / "large.png")
    monkeypatch.setattr(pixel_depth, "MAX_PIXELS", 64)
    assert len(load_folder(tmp_path, 8, 1)) == 1
    message = capsys.readouterr().err
    assert "program.eps" in message
    assert "9 x 8 pixels" in message
