"""The paper's experiments: kinds of run, plans of them, their results as tables and figures."""

from autosparse.study.results import load

__all__ = ["load"]
