"""A signal sets a flag, at which the work stops at a step."""

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autosparse.cluster import interruption, process
from tests.conftest import ROOT, Patch


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGHUP])
def test_signal_only_sets_a_flag(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_DFL)  # under nohup SIGHUP is ignored
    try:
        with interruption.listening():
            assert not interruption.agreed()
            signal.raise_signal(number)
            assert interruption.agreed()
            assert interruption.received() == number.name
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_second_signal_has_its_usual_effect() -> None:
    with interruption.listening():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_nohup_ignores_a_closed_terminal() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruption.listening():
            signal.raise_signal(signal.SIGHUP)
            assert not interruption.agreed()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_signal_during_imports_is_kept(tmp_path: Path) -> None:
    code = """
import sys, time
from pathlib import Path
Path(sys.argv[1], "started").touch()
while not Path(sys.argv[1], "asked").exists():  # as if for imports
    time.sleep(0.01)
from autosparse.cluster import interruption
with interruption.listening():
    print(interruption.received())
"""
    command = [sys.executable, "-ISc", process.HOLD_SIGNALS, "-c", code, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    started = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    while not (tmp_path / "started").exists():
        time.sleep(0.01)
    started.send_signal(signal.SIGUSR2)
    (tmp_path / "asked").touch()
    assert started.communicate()[0] == "SIGUSR2\n"


@pytest.mark.parametrize("step", [0.01, 9.0])
def test_processes_agree_every_few_seconds(step: float, monkeypatch: Patch) -> None:
    """Every few seconds, or at every step that is longer; this world is of one process, which asks all the same."""
    now, asked = 1000.0, list[float]()
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 0)
    monkeypatch.setattr("torch.distributed.get_backend", lambda: "gloo")
    monkeypatch.setattr("torch.distributed.all_reduce", lambda tensor, how: asked.append(now))
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with interruption.listening():
        while now < 1100.0:
            now += step
            assert not interruption.agreed()
        between = [b - a for a, b in itertools.pairwise(asked)]
        assert max(between) < max(3.1, step + 0.1)
        assert len(asked) < 60
        interruption.interrupt("as asked")
        answers = []
        while not answers or not answers[-1]:
            now += step
            answers.append(interruption.agreed())
        assert len(answers) * step < max(3.1, step + 0.1)
