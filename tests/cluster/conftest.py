import pytest

from autosparse.cluster import interruption
from tests.conftest import Patch


@pytest.fixture(autouse=True)
def asked_to_stop_no_longer(monkeypatch: Patch) -> None:
    """Forget a test's requests to stop this process."""
    monkeypatch.setattr(interruption, "_received", None)
    monkeypatch.setattr(interruption, "_lost", False)
