"""A signal sets a flag; the work stops at a step, saves, and the same again goes on with the same bits."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autosparse.cluster import interruption
from tests.conftest import ROOT, RUN, SMALL_IRP, tree


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM, signal.SIGINT])
def test_a_signal_only_sets_a_flag(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with interruption.listening():
        assert not interruption.agreed()
        os.kill(os.getpid(), number)
        assert interruption.agreed()
        assert interruption.received() == number.name
    assert signal.getsignal(number) == before


def test_the_second_signal_does_what_it_did_before() -> None:
    with interruption.listening():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_was_asked_to_stop_goes_on_from_that_step(
    number: signal.Signals, irp_run: Path, tmp_path: Path
) -> None:
    command = [sys.executable, str(ROOT / "launch" / "irp.py"), *SMALL_IRP, "--output", str(tmp_path)]
    folder = tmp_path / "irp" / RUN
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 120
    while not (folder / "history.json").exists() and time.monotonic() < end:
        time.sleep(0.001)
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert said.endswith("error: interrupted; the same command goes on from here\n")
    status = json.loads((folder / "status.json").read_text())
    assert (status["state"], status["why"]) == ("interrupted", number.name)
    assert (folder / "checkpoint.pt").is_file()
    assert not list(folder.glob("logs/*.error.json"))
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert tree(folder / "triples.zarr") == tree(irp_run / "triples.zarr")
    assert tree(folder)["history.json"] == tree(irp_run)["history.json"]


def test_a_signal_during_the_imports_is_kept(tmp_path: Path) -> None:
    code = """
import sys, time
from pathlib import Path
Path(sys.argv[1], "started").touch()
time.sleep(1)  # as if for imports
from autosparse.cluster import interruption
with interruption.listening():
    print(interruption.received())
"""
    command = [sys.executable, "-ISc", interruption.HOLD, "-c", code, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    while not (tmp_path / "started").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGUSR2)
    assert process.communicate(timeout=60)[0] == "SIGUSR2\n"


@pytest.mark.parametrize("step", [0.001, 0.2, 9.0])
def test_processes_ask_each_other_by_the_clock(step: float, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_second_job_on_the_same_run_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "launch" / "irp.py"), *SMALL_IRP, "--output", str(tmp_path)]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while not list((tmp_path / "irp" / RUN).glob(".lease-?")) and time.monotonic() < end:
        time.sleep(0.001)
    os.kill(first.pid, signal.SIGSTOP)
    try:
        second = subprocess.run(command, capture_output=True, text=True, timeout=120)
    finally:
        os.kill(first.pid, signal.SIGCONT)
    assert second.returncode == 2
    assert f"process {first.pid} on " in second.stderr
    assert "works on this run; wait for it, or stop it and run this again" in second.stderr
    assert first.wait(timeout=120) == 0
