"""Fixtures of all tests of the store."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="package")
def skip_fsync() -> Iterator[None]:
    """Skip fsync: it is slow, and only `test_crash` depends on it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda descriptor: None)
        yield
