"""Draws docs/stores_order.svg, the order of triples: `python -m docs.site.draw_order`."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from autosparse.store.order import Chunk, Order
from benchmarks.mixing import batch_indices

PATH = Path(__file__).parents[1] / "stores_order.svg"
ORDER = Order((800, 500), (100, 100), batch_size=12, part="all", streams=3, chunks_per_buffer=2, seed=40)
FRAME = 'fill="none" stroke="#555"'
FILLS = ("#cfe3f7", "#fbdcb8")
LEFT, WIDTH, HEIGHT = 12, 416, 26  # of the sequence and its cells; the drawing is as wide as a telephone


def draw() -> str:
    """Return the drawing: the sequence of two stores, its streams, their shuffle buffers, a batch."""
    parts = [*_sequence(), *_streams(), *_buffers(), *_batch()]
    return "\n".join(
        [
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 440 444" width="440" role="img" '
            'font-family="system-ui, sans-serif" font-size="12" fill="#1c1c1c">',
            "<title>From the sequence of all chunks over streams and shuffle buffers to a batch</title>",
            '<rect width="440" height="444" rx="6" fill="#ffffff"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _sequence() -> Iterator[str]:
    yield _text(LEFT, 22, "The sequence: the chunks of all stores, here A and B, end to end")
    yield from _cells(ORDER.sequence, LEFT, 32, WIDTH / len(ORDER))


def _streams() -> Iterator[str]:
    yield _text(LEFT, 92, "An epoch rotates it by a random offset and cuts it into equal streams")
    x = float(LEFT)
    for stream in range(ORDER.stream_count):
        chunks = _in_sequence(chunk for buffer in ORDER.buffers(stream) for chunk in buffer.chunks)
        end = x + sum(chunk.take for chunk in chunks) * WIDTH / len(ORDER)
        yield from _cells(chunks, x, 102, WIDTH / len(ORDER))
        yield f'<path d="M{x + 1:.1f} 132v5H{end - 1:.1f}v-5" {FRAME}/>'
        yield _text((x + end) / 2, 152, f"stream {stream}", "middle")
        x = end


def _buffers() -> Iterator[str]:
    yield _text(LEFT, 190, "The chunks of a stream are permuted and grouped into shuffle buffers,")
    yield _text(LEFT, 206, "here of two. The samples of a shuffle buffer are permuted in memory")
    for stream in range(ORDER.stream_count):
        y, x = 218 + 44 * stream, LEFT + 60.0
        buffers = ORDER.buffers(stream)
        scale = (WIDTH - 60 - 8 * len(buffers)) / sum(buffer.size for buffer in buffers)
        yield _text(LEFT, y + 22, f"stream {stream}")
        for buffer in buffers:
            yield from _cells(buffer.chunks, x, y + 4, scale)
            width = buffer.size * scale
            yield f'<rect x="{x - 2:.1f}" y="{y + 1}" width="{width + 4:.1f}" height="32" rx="4" {FRAME}/>'
            x += width + 8


def _batch() -> Iterator[str]:
    yield _text(LEFT, 376, "The first batch: the same number of samples of every stream, here four")
    samples = [f"{'AB'[store]}{index // 100}" for store, index in batch_indices(ORDER, 0).T]
    width = WIDTH / len(samples)
    for k, name in enumerate(samples):
        yield _cell(LEFT + k * width, 386, width, name)
    for stream in range(ORDER.stream_count):
        columns = ORDER.columns(stream)
        x, end = LEFT + columns.start * width, LEFT + columns.stop * width
        yield f'<path d="M{x + 1:.1f} 416v5H{end - 1:.1f}v-5" {FRAME}/>'
        yield _text((x + end) / 2, 435, f"stream {stream}", "middle")


def _in_sequence(chunks: Iterable[Chunk]) -> list[Chunk]:
    """Return the chunks in the order of the rotated sequence."""
    places = {sum(ORDER.store_sizes[: chunk.store]) + chunk.start + chunk.skip: chunk for chunk in chunks}
    ends = {(place + chunk.take) % len(ORDER) for place, chunk in places.items()}
    first = next(place for place in places if place not in ends)
    return [places[place] for place in sorted(places, key=lambda place: (place - first) % len(ORDER))]


def _cells(chunks: Iterable[Chunk], x: float, y: float, scale: float) -> Iterator[str]:
    """Yield chunks or slices of them side by side, each as wide as it has samples."""
    for chunk in chunks:
        yield _cell(x, y, chunk.take * scale, f"{'AB'[chunk.store]}{chunk.start // 100}")
        x += chunk.take * scale


def _cell(x: float, y: float, width: float, name: str) -> str:
    """Return a box, with its name if there is room."""
    fill = FILLS["AB".index(name[0])]
    box = f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{HEIGHT}" fill="{fill}" stroke="#fff"/>'
    return box + _text(x + width / 2, y + 17, name, "middle") if width > 16 else box


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}">{text}</text>'


if __name__ == "__main__":
    PATH.write_text(draw())
