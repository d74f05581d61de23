"""Triples on disk: (theta, grad, survival) of every prunable parameter of a run, chunked, checked, resumable."""

from typing import TYPE_CHECKING

from autosparse.lazy import lazily

if TYPE_CHECKING:
    from autosparse.store.loader import Counters, TripleLoader, Triples, sample, samples
    from autosparse.store.reader import TripleStore
    from autosparse.store.writer import TripleWriter

__all__ = ["Counters", "TripleLoader", "TripleStore", "TripleWriter", "Triples", "sample", "samples"]
__getattr__ = lazily(__name__)
