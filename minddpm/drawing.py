"""Draw figures with Pillow: image grids, strips over time, GIFs and line charts.

Images are float arrays [N, H, W, C] in [-1, 1] with C 1 or 3. to_uint8 converts all of them with
one fixed map: rescaling each image to its own range would hide that a model's samples are too dark.
"""

import math
import os
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from minddpm.data import to_uint8
from minddpm.errors import InputError
from minddpm.storage.atomic import atomic_write

GUTTER = 112  # grey level between images; MNIST's background is 0, its digits are up to 255

# Sizes in pixels of the final chart. For antialiasing it is drawn SS times larger, then reduced.
SS = 3
WIDTH, HEIGHT = 900, 540
LEFT, RIGHT, TOP, BOTTOM = 92, 36, 84, 62  # from the chart's edges to the plotting area
INK, SOFT, RULE = (38, 38, 38), (95, 95, 95), (226, 226, 226)
# Paul Tol's "bright" colours, which colour-blind readers can tell apart.
COLOURS = ("#4477aa", "#ee6677", "#228833", "#aa3377", "#ccbb44", "#66ccee", "#777777")


def grid(
    images: np.ndarray, columns: int | None = None, pad: int = 2, scale: int = 2
) -> Image.Image:
    """Return one image that shows a batch row by row: grey (C = 1) or RGB (C = 3).

    images: float ``[N, H, W, C]`` in [-1, 1]. columns: None for a near-square grid.
    pad: pixels around each image. scale: integer factor of enlargement.
    Raises InputError for an argument that cannot be drawn.
    """
    pixels = _pixels(images)
    N, _, _, C = pixels.shape
    columns = math.ceil(math.sqrt(N)) if columns is None else columns
    if columns < 1:
        raise InputError(f"columns={columns}: give at least 1, or None.")
    rows = math.ceil(N / columns)
    empty = np.full((rows * columns - N, *pixels.shape[1:]), GUTTER, np.uint8)
    cells = np.concatenate([pixels, empty])
    return _to_image(_tile(cells.reshape(rows, columns, *pixels.shape[1:]), pad, scale), C)


def strip(
    frames: Sequence[np.ndarray], labels: Sequence[str] | None = None, pad: int = 2, scale: int = 2
) -> Image.Image:
    """Return one image that shows how a batch changes: a row per image, a column per frame.

    frames: batches, each float ``[N, H, W, C]`` in [-1, 1]. labels: one text above each column.
    Raises InputError for an argument that cannot be drawn.
    """
    _check_frames(frames)
    pixels = np.stack([_pixels(frame) for frame in frames])
    columns, _, _, W, C = pixels.shape
    image = _to_image(_tile(pixels.swapaxes(0, 1), pad, scale), C)
    if labels is None:
        return image
    if len(labels) != columns:
        raise InputError(f"{len(labels)} labels for {columns} frames: give one for each frame.")
    cell = W * scale + pad
    widest = max(_font(13).getlength(label) for label in labels)
    # A font of at most 13 pixels in which labels do not overlap, but at least 7, to be readable.
    font = _font(max(7, math.floor(13 * min(1, cell / max(widest, 1)))))
    head = round(1.6 * font.size)
    canvas = Image.new(image.mode, (image.width, image.height + head), "white")
    canvas.paste(image, (0, head))
    draw = ImageDraw.Draw(canvas)
    for i, label in enumerate(labels):
        centre = pad + i * cell + W * scale / 2
        draw.text((centre, head / 2), label, fill="black", font=font, anchor="mm")
    return canvas


def save_png(image: Image.Image, path: str | os.PathLike) -> None:
    """Write an image as PNG, atomically. Raises InputError if it cannot be written."""
    with atomic_write(path) as file:
        image.save(file, format="PNG")


def save_gif(
    frames: Sequence[np.ndarray], path: str | os.PathLike, frame_ms: int = 80, hold_ms: int = 2000
) -> None:
    """Write batches as an endless GIF; each frame is a grid, and the last is shown longer.

    frames: batches, each float ``[N, H, W, C]`` in [-1, 1], all of one shape.
    frame_ms, hold_ms: duration of each frame and of the last frame in milliseconds, multiples of
    10, since GIF counts in 1/100 s.
    Raises InputError for frames that cannot be drawn, or if the file cannot be written.
    """
    if min(frame_ms, hold_ms) < 10:
        raise InputError(f"frame_ms={frame_ms}, hold_ms={hold_ms}: give at least 10 milliseconds.")
    _check_frames(frames)
    first, *rest = [grid(frame) for frame in frames]
    times = [frame_ms] * len(rest) + [hold_ms]
    with atomic_write(path) as file:
        first.save(file, format="GIF", save_all=True, append_images=rest, duration=times, loop=0)


def curve(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    path: str | os.PathLike,
    title: str,
    xlabel: str,
    ylabel: str,
    log_y: bool = False,
    log_x: bool = False,
) -> None:
    """Write a line chart as PNG.

    series: name -> (xs, ys), two sequences of one length. Points with a NaN are not drawn; a series
    of a single point is drawn as a dot. log_y, log_x: use a logarithmic axis, which requires
    positive numbers.
    Raises InputError for a series that cannot be drawn, or if the file cannot be written.
    """
    points = {name: _points(name, *xy, log_x, log_y) for name, xy in series.items()}
    everything = np.concatenate([np.empty((0, 2)), *points.values()])
    if len(everything) == 0:
        raise InputError(f"{path}: no series has a point; give at least one.")
    x_low, x_high = _limits(everything[:, 0], margin=0.0)
    y_low, y_high = _limits(everything[:, 1], margin=0.05)

    canvas = Image.new("RGB", (WIDTH * SS, HEIGHT * SS), "white")
    draw = ImageDraw.Draw(canvas)
    left, right, top, bottom = LEFT * SS, (WIDTH - RIGHT) * SS, TOP * SS, (HEIGHT - BOTTOM) * SS

    def px(x: float) -> float:
        return left + (x - x_low) / (x_high - x_low) * (right - left)

    def py(y: float) -> float:
        return bottom - (y - y_low) / (y_high - y_low) * (bottom - top)

    small, normal, large = _font(14 * SS), _font(15 * SS), _font(19 * SS)
    for x, text in _log_ticks(x_low, x_high) if log_x else _ticks(x_low, x_high):
        draw.line([(px(x), top), (px(x), bottom)], fill=RULE, width=SS)
        draw.text((px(x), bottom + 8 * SS), text, fill=SOFT, font=small, anchor="mt")
    for y, text in _log_ticks(y_low, y_high) if log_y else _ticks(y_low, y_high):
        draw.line([(left, py(y)), (right, py(y))], fill=RULE, width=SS)
        draw.text((left - 8 * SS, py(y)), text, fill=SOFT, font=small, anchor="rm")

    # The legend is above the plotting area, where it hides no data; in two rows if needed.
    lengths = [(29 + 26) * SS + round(normal.getlength(name)) for name in points]
    legend_x, middle = left, top - (18 if left + sum(lengths) <= WIDTH * SS else 38) * SS
    for i, (name, xy) in enumerate(points.items()):
        colour = COLOURS[i % len(COLOURS)]
        line = [(px(x), py(y)) for x, y in xy]
        if len(line) == 1:
            (x, y), r = line[0], 4 * SS
            draw.ellipse([x - r, y - r, x + r, y + r], fill=colour)
        elif line:
            draw.line(line, fill=colour, width=2 * SS, joint="curve")
        if legend_x + lengths[i] > WIDTH * SS:
            legend_x, middle = left, top - 18 * SS
        draw.line([(legend_x, middle), (legend_x + 22 * SS, middle)], fill=colour, width=4 * SS)
        draw.text((legend_x + 29 * SS, middle), name, fill=INK, font=normal, anchor="lm")
        legend_x += lengths[i]

    draw.line([(left, top), (left, bottom), (right, bottom)], fill=SOFT, width=SS)
    draw.text((left, 16 * SS), title, fill=INK, font=large, anchor="lt")
    draw.text(((left + right) / 2, (HEIGHT - 17) * SS), xlabel, fill=INK, font=normal, anchor="ms")
    _draw_upwards(canvas, ylabel, normal, x=12 * SS, y=(top + bottom) // 2)
    save_png(canvas.reduce(SS), path)


def _pixels(images: np.ndarray) -> np.ndarray:
    if not isinstance(images, np.ndarray) or images.ndim != 4 or images.shape[3] not in (1, 3):
        shape = getattr(images, "shape", type(images).__name__)
        raise InputError(f"images of shape {shape}: give [N, H, W, C] with C 1 or 3.")
    if images.size == 0:
        raise InputError(f"images of shape {images.shape}: give at least one pixel.")
    return to_uint8(images)


def _check_frames(frames: Sequence[np.ndarray]) -> None:
    shapes = sorted({np.shape(frame) for frame in frames})
    if len(shapes) != 1:
        raise InputError(f"frames of shapes {shapes}: give at least one, all of one shape.")


def _tile(cells: np.ndarray, pad: int, scale: int) -> np.ndarray:
    """Return uint8 cells [rows, columns, H, W, C] as one image [height, width, C] with gutters."""
    if pad < 0 or scale < 1:
        raise InputError(
            f"pad={pad}, scale={scale}: give a pad of at least 0 and a scale of at least 1."
        )
    big = cells.repeat(scale, axis=2).repeat(scale, axis=3)
    big = np.pad(big, [(0, 0), (0, 0), (pad, 0), (pad, 0), (0, 0)], constant_values=GUTTER)
    rows, columns, H, W, C = big.shape
    image = big.swapaxes(1, 2).reshape(rows * H, columns * W, C)
    return np.pad(image, [(0, pad), (0, pad), (0, 0)], constant_values=GUTTER)


def _to_image(pixels: np.ndarray, C: int) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if C == 1 else pixels)


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _points(
    name: str, xs: Sequence[float], ys: Sequence[float], log_x: bool, log_y: bool
) -> np.ndarray:
    """Return the points without NaN as float64 [n, 2]; on a log axis, return log10 of a value."""
    if len(xs) != len(ys):
        raise InputError(f"series {name!r} has {len(xs)} xs and {len(ys)} ys: give equally many.")
    xy = np.stack([np.asarray(xs, float), np.asarray(ys, float)], axis=1)
    xy = xy[~np.isnan(xy).any(axis=1)]
    if np.isinf(xy).any():
        raise InputError(f"series {name!r} holds an infinite value: leave that point out.")
    for i, log in enumerate((log_x, log_y)):
        if log and (xy[:, i] <= 0).any():
            raise InputError(
                f"series {name!r} has values that are not positive: use log_{'xy'[i]}=False."
            )
        if log:
            xy[:, i] = np.log10(xy[:, i])
    return xy


def _limits(values: np.ndarray, margin: float) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    if low == high:  # an axis must have a length, even for a constant
        return low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    return low - margin * (high - low), high + margin * (high - low)


def _ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Return four to eight ticks in [low, high], spaced by 1, 2 or 5 times a power of ten."""
    power = 10 ** math.floor(math.log10((high - low) / 4))
    step = next(m * power for m in (5, 2, 1) if m * power <= (high - low) / 4)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    style = f",.{decimals}f" if 1e-5 < step < 1e6 else ".6g"
    count = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    return [(k * step, format(k * step, style)) for k in count]


def _log_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Return ticks in log10: powers of ten, and numbers between them if the range is short."""
    if high - low < 1:
        return [(math.log10(v), text) for v, text in _ticks(10**low, 10**high)]
    decades = range(math.floor(low), math.ceil(high) + 1)
    every = math.ceil((high - low) / 8)
    factors = (1, 2, 5) if high - low < 3 else (1,)
    values = [m * 10.0**d for d in decades if d % every == 0 for m in factors]
    return [(math.log10(v), f"{v:g}") for v in values if low <= math.log10(v) <= high]


def _draw_upwards(
    canvas: Image.Image, text: str, font: ImageFont.FreeTypeFont, x: int, y: int
) -> None:
    """Draw text that reads from bottom to top, with its left edge at x and its middle at y."""
    box = Image.new("L", (round(font.getlength(text)) + 1, round(1.4 * font.size)), 255)
    ImageDraw.Draw(box).text((0, box.height / 2), text, fill=INK[0], font=font, anchor="lm")
    upwards = box.rotate(90, expand=True)
    canvas.paste(upwards.convert("RGB"), (x, y - upwards.height // 2))
