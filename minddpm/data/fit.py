"""Images of any size and mode as uint8 [H, W, C] of one size and number of channels."""

from dataclasses import replace

import numpy as np
from PIL import Image, ImageOps

from minddpm.data.dataset import ImageDataset
from minddpm.errors import InputError

Size = tuple[int, int]  # height, width


def check_fit(size: Size | None, channels: int | None) -> None:
    """Raise InputError for an impossible size or number of channels."""
    if channels not in (None, 1, 3):
        raise InputError(f"channels={channels} is invalid: give 1 (grey) or 3 (RGB).")
    if size is not None and min(size) < 1:
        raise InputError(f"size={size_option(size)} is invalid: give at least 1 pixel.")


def fit_image(image: Image.Image, size: Size, channels: int) -> np.ndarray:
    """Return an image as uint8 [H, W, channels], composed on white if it is transparent.

    It is scaled (antialiased) to fill H x W with its proportions kept, and cropped at its centre.
    """
    # Every mode (palette, grey, CMYK, with alpha or not) becomes RGBA and is composed on white:
    # resizing first would mix the hidden colour of transparent pixels into the edges.
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    flat = Image.alpha_composite(white, image).convert("L" if channels == 1 else "RGB")
    H, W = size
    fitted = ImageOps.fit(flat, (W, H), method=Image.Resampling.BICUBIC)
    return np.asarray(fitted).reshape(H, W, channels)


def fit(dataset: ImageDataset, size: Size | None, channels: int | None) -> ImageDataset:
    """Return the data set in this size and number of channels; None: as they are."""
    check_fit(size, channels)
    _, H, W, C = dataset.images.shape
    size, channels = size or (H, W), channels or C
    if (size, channels) == ((H, W), C):
        return dataset
    images = np.empty((len(dataset), *size, channels), np.uint8)
    for i, pixels in enumerate(dataset.images):
        image = Image.fromarray(pixels[..., 0] if C == 1 else pixels)
        images[i] = fit_image(image, size, channels)
    return replace(dataset, images=images)


def parse_size(text: str | int) -> Size:
    """Return (height, width) of "64" or "48x96". Raises InputError for other text."""
    numbers = str(text).split("x")
    if len(numbers) > 2 or not all(n.isascii() and n.isdecimal() and len(n) < 6 for n in numbers):
        raise InputError(f"{text} is not a size: give 64, or height x width such as 48x96.")
    size = int(numbers[0]), int(numbers[-1])
    check_fit(size, None)
    return size


def size_option(size: Size) -> int | str:
    """Return a size as run.json stores it, which parse_size reads: 64, or "48x96"."""
    return size[0] if size[0] == size[1] else f"{size[0]}x{size[1]}"
