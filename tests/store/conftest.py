"""What all tests of the store share."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="package")
def _without_waiting_for_the_disk() -> Iterator[None]:
    """What a killed process has written stays; the power, which does not, is `test_power`'s."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda descriptor: None)
        yield
