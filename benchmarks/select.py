"""How fast are the k highest of many scores found, in how much memory, next to torch.topk and kthvalue?"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from autosparse.command import run
from autosparse.pruning import Mask, keep_top
from benchmarks.common import extra_memory, goal, heading, layout_of, median_seconds, row, table


@dataclass(frozen=True)
class Arguments:
    """Time the mask of the k highest scores; the peers find values and indices, or the threshold alone."""

    scores: int = 144_000_000
    """How many, normal."""
    densities: tuple[float, ...] = (0.01, 0.1, 0.5)
    """Shares kept."""
    repeats: int = 3
    """Times each is timed; the median counts."""


def main(a: Arguments) -> None:
    """Time and print."""
    heading()
    scores = torch.randn(a.scores, generator=torch.Generator().manual_seed(0))
    full = Mask.full(layout_of(a.scores))
    print(f"\n{a.scores:,} scores, {a.scores * 4 / 2**20:,.0f} MiB; median of {a.repeats}\n")
    table("kept", "by", "seconds", "of keep_top", "extra memory, MiB", right=2)
    lines = []
    for density in a.densities:
        k = max(1, round(density * a.scores))
        ways: dict[str, tuple[Callable[[], object], int]] = {
            "keep_top": (partial(keep_top, scores, k, full), a.scores),
            "torch.topk": (partial(torch.topk, scores, k, sorted=False), 0),
            "torch.kthvalue": (partial(torch.kthvalue, scores, a.scores - k + 1), 0),
        }
        found = {}
        for name, (way, mask) in ways.items():
            memory = extra_memory(way, mask)
            found[name] = median_seconds(way, a.repeats), memory
            cells = f"{found[name][0]:.2f}", f"{found[name][0] / found['keep_top'][0]:.1f}", f"{memory:,.0f}"
            row(f"{density:.0%}", name, *cells)
        threshold = torch.kthvalue(scores, a.scores - k + 1).values
        assert torch.equal(keep_top(scores, k, full).kept, scores >= threshold) or (scores == threshold).sum() > 1
        lines.append((density, found))
    print()
    for density, found in lines:
        (ours, memory), (topk, topk_memory), (kth, kth_memory) = found.values()
        times = 5 if density == min(a.densities) else 3
        goal(f"at {density:.0%}, {times} times faster than torch.topk: {topk / ours:.1f}", topk >= times * ours)
        goal(f"at {density:.0%}, no slower than torch.kthvalue: {kth / ours:.1f}", kth >= ours)
        least = min(topk_memory, kth_memory)
        goal(
            f"at {density:.0%}, a tenth of their extra memory: {memory:,.0f} MiB of {least:,.0f}", memory <= least / 10
        )


if __name__ == "__main__":
    run(Arguments, main)
