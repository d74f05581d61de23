"""Masks: the flat index space of prunable weights, masks over it, exact selection, schedules."""

from typing import TYPE_CHECKING

from autosparse.lazy import lazily

if TYPE_CHECKING:
    from autosparse.pruning.hold import Hold
    from autosparse.pruning.layout import Layer, Layout
    from autosparse.pruning.mask import Mask
    from autosparse.pruning.schedule import Constant, Geometric, Linear, Schedule, make_schedule
    from autosparse.pruning.selection import keep_top, keep_top_each
    from autosparse.pruning.summary import Summary, dense_warning

__all__ = [
    "Constant",
    "Geometric",
    "Hold",
    "Layer",
    "Layout",
    "Linear",
    "Mask",
    "Schedule",
    "Summary",
    "dense_warning",
    "keep_top",
    "keep_top_each",
    "make_schedule",
]
__getattr__ = lazily(__name__)
