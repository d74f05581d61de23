"""Masks: the flat index space of prunable weights, masks over it, exact selection, schedules."""

from typing import TYPE_CHECKING

from autosparse.lazy import lazily

if TYPE_CHECKING:
    from autosparse.pruning.hold import Hold
    from autosparse.pruning.layout import Layer, Layout
    from autosparse.pruning.mask import Mask
    from autosparse.pruning.schedule import Schedule
    from autosparse.pruning.selection import keep_top, keep_top_each
    from autosparse.pruning.summary import Summary, dense_warning

__all__ = [
    "Hold",
    "Layer",
    "Layout",
    "Mask",
    "Schedule",
    "Summary",
    "dense_warning",
    "keep_top",
    "keep_top_each",
]
__getattr__ = lazily(__name__)
