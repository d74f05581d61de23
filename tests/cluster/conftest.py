import pytest

from autosparse.cluster import interruption
from tests.conftest import Patch


@pytest.fixture(autouse=True)
def asked_to_stop_no_longer(monkeypatch: Patch) -> None:
    """What a test asks of this process is forgotten after it."""
    monkeypatch.setattr(interruption, "_received", None)
    monkeypatch.setattr(interruption, "_lost", False)
