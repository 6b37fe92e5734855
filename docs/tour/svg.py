"""SVG images as text, for the diagrams of the tour."""

from collections.abc import Iterable

INK, SOFT, BLUE, RED = "#262626", "#5f5f5f", "#4477aa", "#c0392b"


class Svg:
    """The text of an SVG image, element by element."""

    def __init__(self, width: int, height: int):
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" font-family="sans-serif" font-size="13">',
            "<style>text {stroke: white; stroke-width: 3px; paint-order: stroke}</style>",
            '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
            'markerHeight="7" orient="auto-start-reverse"><path d="M0 0L10 5L0 10z" '
            'fill="context-stroke"/></marker></defs>',
        ]
        self.box(0, 0, width, height, "white")

    def box(self, x: float, y: float, w: float, h: float, fill: str, line: str = "none") -> None:
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="4" fill="{fill}" '
            f'stroke="{line}"/>'
        )

    def text(
        self, x: float, y: float, text: str, colour: str = INK, anchor: str = "middle"
    ) -> None:
        """Write text whose middle is at height y."""
        self.parts.append(
            f'<text x="{x:g}" y="{y + 4.5:g}" text-anchor="{anchor}" fill="{colour}">{text}</text>'
        )

    def arrow(
        self, x1: float, y1: float, x2: float, y2: float, colour: str = SOFT, dashed: bool = False
    ) -> None:
        dashes = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(
            f'<path d="M{x1:g} {y1:g}L{x2:g} {y2:g}" stroke="{colour}" stroke-width="1.4"'
            f'{dashes} marker-end="url(#tip)"/>'
        )

    def line(self, xs: Iterable[float], ys: Iterable[float], colour: str) -> None:
        points = " ".join(f"{x:.4g},{y:.4g}" for x, y in zip(xs, ys, strict=True))
        self.parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.4"/>'
        )

    def __str__(self) -> str:
        return "\n".join([*self.parts, "</svg>\n"])
