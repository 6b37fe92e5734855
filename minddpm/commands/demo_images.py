"""The images of the demo's page: a frame as HTML, and a canvas as an image for the model."""

import base64
import io
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from minddpm.commands.demo_frames import Frame
from minddpm.commands.known_part import known_mask
from minddpm.data import to_float
from minddpm.data.fit import Size
from minddpm.drawing import grid

CANVAS = 280  # pixels of the longer side of a canvas, about
GREY = 96  # of the missing part on a canvas
MODES = {1: "L", 3: "RGB"}  # Pillow's, for the channels of the model


def figures(frame: Frame, columns: int | None = None) -> str:
    """Return a frame as HTML: the samples, what the model predicts, and the text."""
    parts = _figure(frame.x, "the samples so far: x", columns)
    parts += _figure(frame.pred_x0, "what the model predicts: pred_x0", columns)
    return (
        f"<div style='display: flex; flex-wrap: wrap; gap: 16px'>{parts}</div>"
        f"<p role='status'>{frame.text}</p>"
    )


def _figure(images: np.ndarray, name: str, columns: int | None) -> str:
    image, file = grid(images, columns, pad=1, scale=1), io.BytesIO()
    image.save(file, format="PNG")
    # A part of the page, so that no file is written for each step. The browser enlarges it.
    source = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    style = f"image-rendering: pixelated; width: 100%; max-width: {5 * image.width}px"
    basis = 320 if image.width < 2 * image.height else 720
    return (
        f"<figure style='flex: 1 1 {basis}px; margin: 0'><img alt='{name}' style='{style}' "
        f"src='{source}'><figcaption>{name}</figcaption></figure>"
    )


def enlargement(size: Size) -> int:
    """Return how many pixels of a canvas a pixel of the model's images is high and wide."""
    return max(1, CANVAS // max(size))


def empty_canvas(size: Size, missing: str | None = None) -> Image.Image:
    """Return a canvas to draw on: black, and grey in the missing part."""
    pixels = np.zeros((*size, 1), np.uint8)
    if missing is not None:
        pixels[known_mask(*size, missing) == 0] = GREY
    scale = enlargement(size)
    return Image.fromarray(pixels[..., 0].repeat(scale, axis=0).repeat(scale, axis=1))


def drawn_image(canvas: dict[str, Any] | None, size: Size, channels: int) -> np.ndarray | None:
    """Return the image on a canvas, float32 [1, H, W, C] in [-1, 1]; None if it is of one colour.

    canvas: a PIL image as "composite". What is transparent becomes black.
    """
    image = canvas and canvas["composite"]
    if image is None:
        return None
    flat = Image.new("RGBA", image.size, "black")
    flat.alpha_composite(image.convert("RGBA"))
    H, W = size
    # The mean of whole squares: nothing of the grey part gets into its neighbours.
    small = ImageOps.fit(flat.convert(MODES[channels]), (W, H), method=Image.Resampling.BOX)
    pixels = np.asarray(small).reshape(H, W, channels)
    return None if np.ptp(pixels) == 0 else to_float(pixels[None])
