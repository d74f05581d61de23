"""Results from fixed seeds stay what they were; `pytest tests/golden --regenerate` after a deliberate change."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.golden.compute import ENVIRONMENT

RESULTS = Path(__file__).parent / "results.json"


def test_seeded_results_equal_the_golden_ones(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    command = [sys.executable, "-m", "tests.golden.compute", str(tmp_path)]
    process = subprocess.run(command, cwd=ROOT, env=os.environ | ENVIRONMENT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    if request.config.getoption("--regenerate"):
        RESULTS.write_text(process.stdout)
    results, golden = json.loads(process.stdout), json.loads(RESULTS.read_text())
    assert results.keys() == golden.keys()
    assert {name: value for name, value in results.items() if value != golden[name]} == {}
