import pytest

from autosparse.cluster import interruption


@pytest.fixture(autouse=True)
def asked_to_stop_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test asks of this process is forgotten after it."""
    monkeypatch.setattr(interruption, "_received", None)
    monkeypatch.setattr(interruption, "_lost", False)
