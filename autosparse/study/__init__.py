"""Experiments: plans of runs, their results, and reports of these with tables and figures."""

from typing import TYPE_CHECKING

from autosparse.lazy import lazily

if TYPE_CHECKING:
    from autosparse.study.experiments import check, describe, find_experiments, find_scale, stages
    from autosparse.study.report import Document, overview
    from autosparse.study.results import load

__all__ = ["Document", "check", "describe", "find_experiments", "find_scale", "load", "overview", "stages"]
__getattr__ = lazily(
    __name__,
    {
        "Document": "autosparse.study.report",
        "check": "autosparse.study.experiments",
        "describe": "autosparse.study.experiments",
        "find_experiments": "autosparse.study.experiments",
        "find_scale": "autosparse.study.experiments",
        "load": "autosparse.study.results",
        "overview": "autosparse.study.report",
        "stages": "autosparse.study.experiments",
    },
)
