"""Experiments: plans of runs, their results, and reports of these with tables and figures."""

from typing import TYPE_CHECKING

from autosparse.lazy import lazily

if TYPE_CHECKING:
    from autosparse.study.experiments import describe, find_experiments, find_scale, make_graph, stages
    from autosparse.study.report import overview, summary
    from autosparse.study.results import load

__all__ = ["describe", "find_experiments", "find_scale", "load", "make_graph", "overview", "stages", "summary"]
__getattr__ = lazily(__name__)
