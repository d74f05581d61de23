"""Draws docs/stores_order.svg, how triples come in order: `python docs/site/draw_order.py`."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from autosparse.store.order import Chunk, Order

PATH = Path(__file__).parents[1] / "stores_order.svg"
ORDER = Order(sizes=(800, 500), chunks=(100, 100), batch_size=12, part="all", lanes=3, mix=2, seed=40)
FRAME = 'fill="none" stroke="#555"'
FILLS = ("#cfe3f7", "#fbdcb8")
LEFT, WIDTH, HEIGHT = 12, 416, 26  # of the line and its cells; the picture is as wide as a telephone


def draw() -> str:
    """The drawing: the line of two stores, its lanes, their windows, a batch."""
    parts = [*_line(), *_lanes(), *_windows(), *_batch()]
    return "\n".join(
        [
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 440 444" width="440" role="img" '
            'font-family="system-ui, sans-serif" font-size="12" fill="#1c1c1c">',
            "<title>From the line of all chunks over lanes and windows to a batch</title>",
            '<rect width="440" height="444" rx="6" fill="#ffffff"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _line() -> Iterator[str]:
    yield _text(LEFT, 22, "The line: the chunks of all stores, here A and B, end to end")
    yield from _cells(ORDER.line, LEFT, 32, WIDTH / len(ORDER))


def _lanes() -> Iterator[str]:
    yield _text(LEFT, 92, "An epoch turns it at random and cuts it into lanes of equal shares")
    x = float(LEFT)
    for lane in range(ORDER.number_of_lanes):
        chunks = _in_line(chunk for window in ORDER.windows(lane) for chunk in window.chunks)
        end = x + sum(chunk.take for chunk in chunks) * WIDTH / len(ORDER)
        yield from _cells(chunks, x, 102, WIDTH / len(ORDER))
        yield f'<path d="M{x + 1:.1f} 132v5H{end - 1:.1f}v-5" {FRAME}/>'
        yield _text((x + end) / 2, 152, f"lane {lane}", "middle")
        x = end


def _windows() -> Iterator[str]:
    yield _text(LEFT, 190, "In each lane chunks are permuted and cut into windows, here of two;")
    yield _text(LEFT, 206, "the samples of a window, which is held in memory, are permuted")
    for lane in range(ORDER.number_of_lanes):
        y, x = 218 + 44 * lane, LEFT + 44.0
        windows = ORDER.windows(lane)
        scale = (WIDTH - 44 - 8 * len(windows)) / sum(window.size for window in windows)
        yield _text(LEFT, y + 22, f"lane {lane}")
        for window in windows:
            yield from _cells(window.chunks, x, y + 4, scale)
            width = window.size * scale
            yield f'<rect x="{x - 2:.1f}" y="{y + 1}" width="{width + 4:.1f}" height="32" rx="4" {FRAME}/>'
            x += width + 8


def _batch() -> Iterator[str]:
    yield _text(LEFT, 376, "The first batch: the same number of samples of every lane, here four")
    samples = [f"{'AB'[store]}{index // 100}" for store, index in ORDER.indices(0).T]
    width = WIDTH / len(samples)
    for k, name in enumerate(samples):
        yield _cell(LEFT + k * width, 386, width, name)
    for lane in range(ORDER.number_of_lanes):
        columns = ORDER.columns(lane)
        x, end = LEFT + columns.start * width, LEFT + columns.stop * width
        yield f'<path d="M{x + 1:.1f} 416v5H{end - 1:.1f}v-5" {FRAME}/>'
        yield _text((x + end) / 2, 435, f"lane {lane}", "middle")


def _in_line(chunks: Iterable[Chunk]) -> list[Chunk]:
    """Chunks that lie one after the other on the turned line, as they lie there."""
    places = {sum(ORDER.sizes[: chunk.store]) + chunk.start + chunk.skip: chunk for chunk in chunks}
    ends = {(place + chunk.take) % len(ORDER) for place, chunk in places.items()}
    first = next(place for place in places if place not in ends)
    return [places[place] for place in sorted(places, key=lambda place: (place - first) % len(ORDER))]


def _cells(chunks: Iterable[Chunk], x: float, y: float, scale: float) -> Iterator[str]:
    """Chunks, or what is taken of them, one after the other, as wide as they have samples."""
    for chunk in chunks:
        yield _cell(x, y, chunk.take * scale, f"{'AB'[chunk.store]}{chunk.start // 100}")
        x += chunk.take * scale


def _cell(x: float, y: float, width: float, name: str) -> str:
    """A box, with its name where there is room."""
    fill = FILLS["AB".index(name[0])]
    box = f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{HEIGHT}" fill="{fill}" stroke="#fff"/>'
    return box + _text(x + width / 2, y + 17, name, "middle") if width > 16 else box


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}">{text}</text>'


if __name__ == "__main__":
    PATH.write_text(draw())
