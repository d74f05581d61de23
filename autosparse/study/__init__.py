"""The paper's experiments: kinds of run, plans of them, their results as tables and figures."""

from typing import TYPE_CHECKING

from autosparse.lazy import lazily

if TYPE_CHECKING:
    from autosparse.study.results import load

__all__ = ["load"]
__getattr__ = lazily(__name__, {"load": "autosparse.study.results"})
