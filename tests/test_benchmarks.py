"""A tiny version of each benchmark runs and prints its table."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("training", ["--dataset", "digits", "--workers", "0", "--repeats", "1"], "| DataLoader, 0 workers |"),
        ("large", ["--network", "resnet18", "--steps", "1", "--batch-size", "4"], "GB, whole |"),
    ],
)
def test_tiny(name: str, arguments: list[str], expected: str) -> None:
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"command   python -m benchmarks.{name} --")
    assert expected in done.stdout
