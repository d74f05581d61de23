"""What is kept: the flat index space of prunable weights, masks over it, exact selection, schedules."""

from typing import TYPE_CHECKING

from autosparse.lazy import lazily

if TYPE_CHECKING:
    from autosparse.pruning.layout import Layer, Layout
    from autosparse.pruning.mask import Mask
    from autosparse.pruning.schedule import Constant, Geometric, Linear, Schedule, make_schedule
    from autosparse.pruning.selection import keep_top, keep_top_each, keep_top_of_parts

__all__ = [
    "Constant",
    "Geometric",
    "Layer",
    "Layout",
    "Linear",
    "Mask",
    "Schedule",
    "keep_top",
    "keep_top_each",
    "keep_top_of_parts",
    "make_schedule",
]
__getattr__ = lazily(__name__)
