"""Stopping at a step boundary: a signal only sets a flag, and all processes of a job act on it at the same step."""

import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# time limit and preemption; the same; a person; a person's terminal that is closed
_SIGNALS = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# The first code of a job's process: it holds signals until `listening`, as one during the imports would end it, and
# runs `autosparse.cluster.begin` instead of submitit's module.
HOLD = (
    "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2, signal.SIGTERM}); "
    "words = [word.replace('submitit.core._submit', 'autosparse.cluster.begin') for word in sys.argv[1:4]]; "
    "os.execv(sys.executable, [sys.executable, *words, *sys.argv[4:]])"
)
PYTHON = f"{shlex.quote(sys.executable)} -ISc {shlex.quote(HOLD)}"
"""The Python of submitit's jobs."""
_TOGETHER = 3.0  # seconds between two agreements of several processes: each costs a round trip

_received: str | None = None
_lost = False
_calls = 0  # since the last agreement
_next = 1  # calls until the next one
_last = 0.0  # when it was


class InterruptedAtStep(Exception):
    """All processes have stopped at the same step, and what is needed to go on was saved: no failure."""


def interrupt(why: str) -> None:
    """Have this process stop at the next boundary."""
    global _received
    _received = _received or why


def lose(why: str) -> None:
    """Have this process stop at the next boundary and leave everything as it is: the run belongs to another job."""
    global _lost
    _lost = True
    interrupt(why)


def lost() -> bool:
    """Whether the run belongs to another job by now."""
    return _lost


def received() -> str | None:
    """Why this process was asked to stop, if it was."""
    return _received


def agreed() -> bool:
    """Whether all processes stop here; called by each of them after each step.

    Several processes ask each other every few seconds only. The clock of one of them says at which step they will: all
    must ask at the same, and steps may take a millisecond or ten seconds.
    """
    import torch.distributed  # not for those who only look at runs

    global _calls, _next, _last
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return _received is not None
    _calls += 1
    if _calls < _next:
        return False
    now = time.monotonic()
    # at most twice as many steps as the last time: a first step that compiles, say, is not the pace
    steps = max(1, min(2 * _calls, int(_TOGETHER * _calls / max(now - _last, 1e-9))))
    mine = [float(_received is not None), float(steps if torch.distributed.get_rank() == 0 else 0)]
    on_gpu = torch.distributed.get_backend() == "nccl"
    device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
    asked = torch.tensor(mine, device=device)
    torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX)
    stop, steps = asked.tolist()
    _calls, _next, _last = 0, int(steps), now
    return bool(stop)


@contextmanager
def listening() -> Iterator[None]:
    """Within the block, the first of the signals asks to stop at the next step; the second does what it did before.

    Outside the main thread, where Python allows no handlers, nothing changes.
    """
    global _received, _lost, _calls, _next, _last
    _received, _lost, _calls, _next, _last = None, False, 0, 1, time.monotonic()
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def note(number: int, frame: FrameType | None) -> None:
        interrupt(signal.Signals(number).name)
        signal.signal(number, before[number])

    before: dict[int, Any] = {number: signal.getsignal(number) or signal.SIG_DFL for number in _SIGNALS}
    if before[signal.SIGHUP] == signal.SIG_IGN:  # nohup: it is to outlive its terminal
        del before[signal.SIGHUP]
    for each in before:
        signal.signal(each, note)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)  # held since the start of a Slurm task
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
