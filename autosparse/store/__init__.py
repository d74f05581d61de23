"""Triples on disk: (theta, grad, survival) of every prunable parameter of a run, chunked, checked, resumable."""

from autosparse.store.batches import TripleBatches, Triples, sample
from autosparse.store.reader import TripleStore
from autosparse.store.writer import TripleWriter

__all__ = ["TripleBatches", "TripleStore", "TripleWriter", "Triples", "sample"]
