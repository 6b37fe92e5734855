"""Images of any pixel depth as 8 bits per channel: which value is black, which is white.

Formats state how many bits they store, not how many are used: a 12-bit camera writes 0 .. 4095 into
16 bits. All such images of a folder therefore share one scale, which is chosen from the values of
all of them and printed. Scaling each image by itself would make dark images bright.

    1, 2, 4, 8 bits          the format's range (Pillow scales it to 0 .. 255)
    16-bit PGM, JPEG 2000    the format's range, which these formats do state
    16-bit grey, integers    0 .. 2^b - 1 with the fewest bits b of 1, 2, 4, 8, 10, 12, 14, 16 that
                             hold all values; negative or larger values: smallest .. largest value
    floats                   0 .. 1 if all values lie there; otherwise smallest .. largest value
    16 bits per channel      the format's range; a line says if all values use its first 1/16 only

A float image with NaN or an infinite value counts as unreadable.
"""

from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageOps

MAX_PIXELS = 50_000_000  # a small file may decode to far more
WHITES = tuple(2**bits - 1 for bits in (1, 2, 4, 8, 10, 12, 14, 16))
FULL = 65535  # white in 16 bits
DARK = 1 / 16  # of white: what does not exceed it comes out nearly black
GREY_16, INTEGERS, FLOATS, CHANNELS_16 = "16-bit grey", "integers", "floats", "16 bits per channel"
# Pillow scales these values to 8 bits, but not the transparent one of a PNG.
KEY_FACTORS = {"L;2": 85, "L;4": 17, "RGB;16B": 1 / 256}
SAMPLE_FORMAT, PHOTOMETRIC, SIGNED, WHITE_IS_ZERO = 339, 262, 2, 0  # of TIFF


class _Range(NamedTuple):
    low: float
    high: float
    images: int


class _Decoded(NamedTuple):
    """image: upright. kind: None for 8 bits. values: of a grey image of more than 8 bits."""

    image: Image.Image
    kind: str | None
    values: np.ndarray | None
    inverted: bool  # 0 is white


class Depths:
    """Opens the images of one folder, and collects the ranges of those with more than 8 bits."""

    def __init__(self) -> None:
        self._ranges: dict[str, _Range] = {}

    def open(self, path: Path | BinaryIO) -> Image.Image | None:
        """Return the image, upright, with 8 bits per channel.

        Return None for grey values of more than 8 bits: `scaled` needs the range of all of them.
        Raises what Pillow raises on an unreadable file, and ValueError for NaN or infinity.
        """
        decoded = _decode(path)
        if decoded.kind is None:
            return decoded.image
        if decoded.values is None:
            extrema = np.array(decoded.image.getextrema()[:3])
            self._note(decoded.kind, extrema)
            return decoded.image
        key = decoded.image.info.get("transparency")
        visible = decoded.values[decoded.values != key] if key is not None else decoded.values
        self._note(decoded.kind, visible)
        return None

    def scaled(self, path: Path | BinaryIO) -> Image.Image:
        """Return an image for which `open` returned None, after all have been opened."""
        image, kind, values, inverted = _decode(path)
        black, white = black_and_white(kind, self._ranges[kind])
        unit = (values.astype(np.float64) - black) / (white - black)
        grey = _to_8_bits(1 - unit if inverted else unit)
        key = image.info.get("transparency")
        if key is None:
            return Image.fromarray(grey)
        alpha = 255 * (values != key).astype(np.uint8)
        return Image.fromarray(np.stack([grey, alpha], axis=2))

    def notes(self) -> list[str]:
        """Return the sentences that say which values became black and white."""
        sentences = []
        for kind, found in self._ranges.items():
            if kind != CHANNELS_16:
                black, white = black_and_white(kind, found)
                sentences.append(
                    f"{found.images:,} images of {kind} hold {found.low:.7g} .. {found.high:.7g}: "
                    f"{black:.7g} is black, {white:.7g} is white"
                )
            elif 0 < found.high < DARK * 256:
                sentences.append(
                    f"{found.images:,} images of {kind} use less than 1/16 of them and come out "
                    "nearly black: save them with 8 bits"
                )
        return sentences

    def merge(self, other: "Depths") -> None:
        """Add the ranges of other images of the same folder."""
        for kind, found in other._ranges.items():
            self._add(kind, found)

    def _note(self, kind: str, values: np.ndarray) -> None:
        if values.size == 0:  # all of them are transparent
            values = np.zeros(1)
        self._add(kind, _Range(float(values.min()), float(values.max()), 1))

    def _add(self, kind: str, found: _Range) -> None:
        low, high, images = self._ranges.get(kind, (np.inf, -np.inf, 0))
        low, high = min(low, found.low), max(high, found.high)
        self._ranges[kind] = _Range(low, high, images + found.images)


def black_and_white(kind: str, found: _Range) -> tuple[float, float]:
    """Return the values that become 0 and 255, by the rules above."""
    low, high, _ = found
    if kind == FLOATS:
        if low >= 0 and (DARK < high <= 1 or high == 0):
            return 0, 1
    elif low >= 0 and high <= FULL:
        return 0, next(white for white in WHITES if high <= white)
    return low, high if high > low else low + 1


def _decode(path: Path | BinaryIO) -> _Decoded:
    with Image.open(path) as opened:
        if opened.format == "EPS":
            raise ValueError("an EPS file is a program, which Ghostscript would run")
        if opened.width * opened.height > MAX_PIXELS:
            raise ValueError(f"it has {opened.width} x {opened.height} pixels, too many")
        stored = str(opened.tile[0].args) if opened.tile else ""  # such as "('RGB;16B', 0, 1)"
        states_range = opened.format in ("PPM", "JPEG2000")
        tags: Any = getattr(opened, "tag_v2", {})
        image = ImageOps.exif_transpose(opened)  # decodes it completely: damage raises here
    _scale_key(image, stored)
    signed = tags.get(SAMPLE_FORMAT, (1,))[0] == SIGNED
    kind, values = _grey_values(image, signed, unsigned=bool(tags) and not signed)
    if kind is None:
        deep = ";16" in stored and image.mode.startswith(("L", "RGB"))
        return _Decoded(image, CHANNELS_16 if deep else None, None, False)
    if kind != FLOATS and states_range:  # Pillow has scaled the values to 0 .. 65535
        return _Decoded(Image.fromarray(_to_8_bits(values / FULL)), None, None, False)
    return _Decoded(image, kind, values, tags.get(PHOTOMETRIC) == WHITE_IS_ZERO)


def _grey_values(
    image: Image.Image, signed: bool, unsigned: bool
) -> tuple[str | None, np.ndarray | None]:
    """Return kind and values of an image of more than 8 bits or with negative values, else None.

    signed, unsigned: what a TIFF states of its values; Pillow always reads 8 bits as unsigned and
    32 bits as signed.
    """
    if image.mode.startswith("I;16"):
        return GREY_16, np.asarray(image)
    if image.mode == "I":
        values = np.asarray(image)
        return INTEGERS, values.view(np.uint32) if unsigned else values
    if image.mode == "L" and signed:
        return INTEGERS, np.asarray(image).view(np.int8)
    if image.mode != "F":
        return None, None
    values = np.asarray(image)
    if bad := np.count_nonzero(~np.isfinite(values)):
        raise ValueError(f"{bad} of its {values.size} values are NaN or infinite")
    return FLOATS, values


def _to_8_bits(unit: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(unit, 0, 1) * 255).astype(np.uint8)


def _scale_key(image: Image.Image, stored: str) -> None:
    """Scale the transparent value of a PNG as Pillow scaled the image's values."""
    key = image.info.get("transparency")
    factor = KEY_FACTORS.get(stored)
    if key is not None and factor is not None:
        scaled = [int(value * factor) for value in (key if isinstance(key, tuple) else (key,))]
        image.info["transparency"] = tuple(scaled) if isinstance(key, tuple) else scaled[0]
