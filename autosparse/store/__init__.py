"""Triples on disk: (theta, grad, survival) of every prunable parameter of a run, chunked, checked, resumable."""

from autosparse.store.batches import Counters, TripleBatches
from autosparse.store.reader import TripleStore
from autosparse.store.triples import Triples, sample
from autosparse.store.writer import TripleWriter

__all__ = ["Counters", "TripleBatches", "TripleStore", "TripleWriter", "Triples", "sample"]
