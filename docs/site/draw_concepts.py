"""Draws docs/concepts.svg, from iterative pruning to a mask: `python -m docs.site.draw_concepts`."""

from collections.abc import Iterator
from pathlib import Path

PATH = Path(__file__).parents[1] / "concepts.svg"
WIDTH, HEIGHT = 400, 560  # as wide as a telephone
INK, FRAME, BLUE, ORANGE = "#1c1c1c", "#555", "#cfe3f7", "#fbdcb8"
WEIGHTS = (  # initial weight, gradient, iteration that removes it; 0: none of the four
    ("0.31", "-0.02", 3),
    ("-0.87", "0.05", 0),
    ("0.04", "0.01", 1),
    ("-0.22", "-0.09", 0),
    ("0.12", "0.03", 2),
    ("0.55", "0.01", 4),
)
ITERATIONS = 4


def draw() -> str:
    """Return the drawing: the loop of IRP, the triples that it leaves, AutoS fitted to them, and looking ahead."""
    head = '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img" '
            f'font-family="system-ui, sans-serif" font-size="13" fill="{INK}">',
            "<title>IRP yields triples, AutoS is fitted to them, its scores choose the mask of another network</title>",
            f'<defs>{head}<path d="M0 0L8 4L0 8z" fill="{FRAME}"/></marker></defs>',
            f'<rect width="{WIDTH}" height="{HEIGHT}" rx="6" fill="#ffffff"/>',
            *_loop(),
            *_triples(),
            *_autos(),
            *_ahead(),
            "</svg>\n",
        ]
    )


def _loop() -> Iterator[str]:
    yield _title(24, "1. IRP prunes a network in N iterations")
    yield from _chain(40, ("initial weights", 106), ("train", 58), ("score", 58), ("remove lowest", 108))
    yield f'<path d="M346 70V88H60V72" fill="none" stroke="{FRAME}" marker-end="url(#head)"/>'
    yield _text(203, 104, "rewind the kept weights to their initial values", "middle")


def _triples() -> Iterator[str]:
    yield _title(140, "2. Each weight leaves a triple: θ, g, survival")
    for x, text in ((40, "weight θ"), (112, "gradient g"), (216, "masks 1 to 4"), (336, "survival")):
        yield _text(x, 162, text, "middle")
    for row, (theta, gradient, removed) in enumerate(WEIGHTS):
        y = 170 + 22 * row
        survival = removed - 1 if removed else ITERATIONS
        yield _text(58, y + 15, theta, "end")
        yield _text(132, y + 15, gradient, "end")
        for mask in range(ITERATIONS):
            fill = BLUE if mask < survival else "#ffffff"
            yield f'<rect x="{166 + 25 * mask}" y="{y}" width="23" height="19" fill="{fill}" stroke="#999"/>'
        yield _text(336, y + 15, f"{survival} of {ITERATIONS}", "middle")


def _autos() -> Iterator[str]:
    yield _title(334, "3. AutoS learns survival from θ and g; then its")
    yield _title(351, "scores choose the mask of another network")
    yield from _chain(364, ("θ, g", 48), ("AutoS", 64), ("scores", 64), ("mask", 60), ("train", 64), fill=ORANGE)
    yield _text(356, 410, "mask held", "middle")


def _ahead() -> Iterator[str]:
    yield _title(448, "4. Looking ahead: a probe trains K steps first")
    yield from _chain(
        462, ("θ", 32), ("K steps", 68), ("θ, weight after", 108), ("AutoS", 58), ("mask", 50), fill=ORANGE
    )
    yield f'<path d="M365 492V510H28V494" fill="none" stroke="{FRAME}" marker-end="url(#head)"/>'
    yield _text(203, 526, "rewind to θ, in each of five rounds", "middle")
    yield _text(203, 545, "It costs one more full training run.", "middle")


def _chain(y: int, *boxes: tuple[str, int], fill: str = BLUE) -> Iterator[str]:
    """Yield boxes of texts and widths from left to right over the whole width, with arrows between them."""
    gap = (WIDTH - 24 - sum(width for _, width in boxes)) / (len(boxes) - 1)
    x = 12.0
    for k, (text, width) in enumerate(boxes):
        if k:
            arrow = f'<path d="M{x - gap + 1:.1f} {y + 15}H{x - 1:.1f}" stroke="{FRAME}" marker-end="url(#head)"/>'
            yield arrow
        yield f'<rect x="{x:.1f}" y="{y}" width="{width}" height="30" rx="4" fill="{fill}" stroke="{FRAME}"/>'
        yield _text(x + width / 2, y + 20, text, "middle")
        x += width + gap


def _title(y: int, text: str) -> str:
    return f'<text x="12" y="{y}" font-weight="600">{text}</text>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}">{text}</text>'


if __name__ == "__main__":
    PATH.write_text(draw(), encoding="utf-8")
