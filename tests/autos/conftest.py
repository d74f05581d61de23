from pathlib import Path

import pytest

from autosparse.store import TripleStore


@pytest.fixture(scope="module")
def store(irp_run: Path) -> TripleStore:
    return TripleStore.open(irp_run)
