"""Draw a request of a warp as HTML: its lanes in sectors of global memory, or in the banks.

Every cell that lanes access has their numbers. Empty cells of a sector are fetched for nothing; in
shared memory each row is a pass, in which every bank delivers one word.
"""

from collections.abc import Iterable
from itertools import groupby

from minddpm.kernels.emulator.profile import Request

SECTOR, BANKS, WORD = 32, 32, 4  # as in profile.cc

STYLE = """
.drawing { margin: .4rem 0 1rem; }
.drawing p { margin: .2rem 0; max-width: 60rem; }
i { font: 600 .58rem/1.5rem system-ui, sans-serif; text-align: center; overflow: hidden;
  height: 1.5rem; box-sizing: border-box; white-space: nowrap; }
i[style] { background: hsl(calc(200 + 5 * var(--lane)) 65% 78%); border: 1px solid #fff; }
.sectors { display: flex; flex-wrap: wrap; gap: .5rem .9rem; }
.sector small { display: block; color: #666; font-size: .7rem; }
.cells { display: flex; border: 1px solid #888; width: 12.2rem; background:
  repeating-linear-gradient(135deg, #eee 0 3px, #fff 3px 6px); }
.cells i { flex: 1; }
.banks { display: grid; grid-template-columns: repeat(32, 2rem); width: max-content;
  border: 1px solid #888; margin-bottom: .5rem;
  background: repeating-linear-gradient(90deg, #f4f4f4 0 3.125%, #fff 3.125% 6.25%); }
.banks b { font: .62rem/1.2rem system-ui, sans-serif; text-align: center; color: #666;
  background: #ddd; min-width: 0; overflow: hidden; }
@media (max-width: 60rem) {
  .banks { width: auto; grid-template-columns: repeat(32, minmax(0, 1fr)); }
  .banks i, .banks b { font-size: .4rem; letter-spacing: -.02em; border-width: 0 1px 1px 0; }
}
@media (max-width: 40rem) { .cells { width: 10rem; } .sectors { gap: .4rem; } }
"""


def drawing(request: Request, space: str, kind: str, name: str) -> str:
    """Return the drawing of a request to the array of this name, with a sentence above it."""
    lanes = sum(at is not None for at in request.at)
    plural = "" if request.transactions == 1 else "s" if space == "global" else "es"
    unit = f"sector{plural} of 32 bytes" if space == "global" else f"pass{plural} over the banks"
    text = (
        f"<b>{space} {kind} of {name}</b>: warp {request.warp} of block {request.block}, {lanes} "
        f"lanes, {request.bytes} bytes each: <b>{request.transactions} {unit}</b>, where "
        f"{request.ideal} would suffice."
    )
    cells = _sectors(request) if space == "global" else _banks(request)
    return f'<div class="drawing" data-access="{space} {kind}"><p>{text}</p>{cells}</div>'


def _sectors(request: Request) -> str:
    size = min(request.bytes, WORD)
    cells = _touched(request, range(32), size)
    drawn = []
    for sector in sorted({cell * size // SECTOR for cell in cells}):
        first = sector * SECTOR // size
        inside = "".join(
            _cell(cells[n]) if n in cells else "<i></i>"
            for n in range(first, first + SECTOR // size)
        )
        drawn.append(
            f'<div class="sector"><small>byte {sector * SECTOR:,}</small>'
            f'<div class="cells">{inside}</div></div>'
        )
    return f'<div class="sectors">{"".join(drawn)}</div>'


def _banks(request: Request) -> str:
    """Return a grid for each part of the warp that is served together: its banks, pass by pass."""
    together = 8 if request.bytes > 8 else 16 if request.bytes > 4 else 32
    grids = []
    for first in range(0, 32, together):
        words = _touched(request, range(first, first + together), WORD)
        if not words:
            continue
        cells = [f"<b>{bank}</b>" for bank in range(BANKS)]
        for bank, column in groupby(
            sorted(words, key=lambda w: (w % BANKS, w)), lambda w: w % BANKS
        ):
            for one_pass, word in enumerate(column):
                cells.append(_cell(words[word], f"grid-area: {one_pass + 2} / {bank + 1}"))
        grids.append(f'<div class="banks">{"".join(cells)}</div>')
    return "".join(grids)


def _touched(request: Request, lanes: Iterable[int], size: int) -> dict[int, list[int]]:
    """Return the lanes that access each piece of memory of `size` bytes."""
    cells: dict[int, list[int]] = {}
    for lane in lanes:
        if (at := request.at[lane]) is not None:
            for cell in range(at // size, (at + request.bytes - 1) // size + 1):
                cells.setdefault(cell, []).append(lane)
    return cells


def _cell(lanes: list[int], place: str = "") -> str:
    """Return a cell with the numbers of its lanes, or how many they are if they do not fit."""
    first, last = lanes[0], lanes[-1]
    text, all_of_them = str(first), ", ".join(map(str, lanes))
    if len(lanes) > 1:
        text = f"{first}-{last}" if last - first == len(lanes) - 1 else f"{len(lanes)}x"
    if len(text) > 4:  # 16-19 in a cell of 4 bytes
        place += ";font-size: .46rem"
    title = f' title="lanes {all_of_them}"' * (len(lanes) > 1)
    return f'<i style="--lane:{first};{place}"{title}>{text}</i>'
