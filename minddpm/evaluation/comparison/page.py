"""Write the comparison as one HTML page; images are embedded, so it loads no other file."""

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from minddpm.drawing import grid
from minddpm.evaluation.comparison.table import Results, rows, verdict

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem;
  color: #262626; background: #fff; }
h1, h2 { line-height: 1.2; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid #ddd; padding: .25rem .8rem; text-align: right;
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; white-space: normal; }
.wide { overflow-x: auto; }
.side { display: flex; flex-wrap: wrap; gap: 1.5rem; }
figure { margin: 0; }
.side figure { flex: 1 1 18rem; max-width: 29rem; } figcaption { font-weight: 600; }
img { max-width: 100%; image-rendering: pixelated; }
.side .curve { flex-basis: 28rem; max-width: 34rem; }
.curve img { image-rendering: auto; }
input[type=range] { width: min(32rem, 100%); display: block; }
"""

SCRIPT = """
const slider = document.getElementById("step"), frames = [...document.querySelectorAll(".frame")];
function show() {
  frames.forEach((frame, i) => { frame.hidden = i !== Number(slider.value); });
  const [now, last] = [frames[slider.value], frames[frames.length - 1]].map(f => f.dataset.step);
  document.getElementById("at").textContent = `after ${now} of ${last} steps`;
}
slider.addEventListener("input", show);
show();
"""


def page(
    results: Results,
    protocol: Sequence[str],
    samples: dict[str, np.ndarray],
    curves: dict[str, bytes],
    detail: bytes,
    frames: dict[int, np.ndarray],
) -> str:
    """Return the report as HTML.

    protocol: sentences on how the numbers were measured.
    samples: heading -> float32 [n, H, W, C], of each system and of real digits.
    curves: system -> the bytes of loss.png. detail: the bytes of detail.png.
    frames: sampling step -> the DDPM's batch [n, H, W, C] after this step.
    """
    head, body = rows(results)
    last = max(frames)
    protocol_text = html.escape(" ".join(protocol))
    grids = "".join(
        f"<figure><figcaption>{html.escape(name)}</figcaption>{_image(grid(images), name)}</figure>"
        for name, images in samples.items()
    )
    steps = "".join(
        f'<div class="frame" data-step="{step}"{" hidden" if step < last else ""}>'
        f"{_image(grid(frame, columns=len(frame), scale=3), f'step {step}')}</div>"
        for step, frame in frames.items()
    )
    charts = "".join(
        f'<figure class="curve"><figcaption>{html.escape(name)}</figcaption>'
        f"{_embedded(png, f'loss of the {name}')}</figure>"
        for name, png in curves.items()
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>DDPM, GAN and VAE on MNIST</title>
<style>{STYLE}</style>
</head>
<body>
<h1>DDPM, GAN and VAE on MNIST</h1>
<p>{html.escape(verdict(results))}</p>
<h2>Samples and real digits, not selected</h2>
<div class="side">{grids}</div>
<h2>Numbers</h2>
<div class="wide"><table>
<thead>{_row(head, "th")}</thead>
<tbody>{"".join(_row(cells, "td") for cells in body)}</tbody>
</table></div>
<p>{protocol_text}</p>
<h2>Detail</h2>
<figure>{_embedded(detail, "power spectra")}</figure>
<p>Blur lowers a curve at its right end and makes pixels grey. Edges that are too sharp raise
it.</p>
<h2>From noise to digits</h2>
<label>The DDPM, <span id="at"></span>
<input type="range" id="step" min="0" max="{len(frames) - 1}" value="{len(frames) - 1}"></label>
{steps}
<h2>Losses</h2>
<div class="side">{charts}</div>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _row(cells: Sequence[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"


def _image(image: Image.Image, name: str) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return _embedded(buffer.getvalue(), name)


def _embedded(png: bytes, name: str) -> str:
    data = base64.b64encode(png).decode()
    return f'<img alt="{html.escape(name)}" src="data:image/png;base64,{data}">'
