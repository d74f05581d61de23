"""Stopping at a step boundary: a signal only sets a flag, and all processes of a job act on it at the same step."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# Slurm sends the first two at the time limit and for a preemption, Ctrl-C the third, a closed terminal the fourth.
SIGNALS = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_AGREEMENT_INTERVAL = 3.0  # seconds between two agreements of several processes: each costs a round trip

_received: str | None = None
_lost = False
_calls = 0  # calls since the last agreement
_next = 1  # number of calls at which the next agreement is due
_last = 0.0  # time of the last agreement


class InterruptedAtStep(Exception):
    """All processes have stopped at the same step with their state saved; this is not a failure."""


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
    """Return True if the run belongs to another job by now."""
    return _lost


def received() -> str | None:
    """Return why this process was asked to stop; None if it was not."""
    return _received


def agreed() -> bool:
    """Return True if all processes stop now; each of them calls this after each step.

    Several processes ask each other every few seconds only. All must ask at the same step, and steps may take a
    millisecond or ten seconds, so the clock of one process decides at which step they ask next.
    """
    import torch.distributed  # Looking at runs must not import PyTorch.

    global _calls, _next, _last
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return _received is not None
    _calls += 1
    if _calls < _next:
        return False
    now = time.monotonic()
    # The number of steps at most doubles: a first step may be slow because it compiles.
    steps = max(1, min(2 * _calls, int(_AGREEMENT_INTERVAL * _calls / max(now - _last, 1e-9))))
    mine = [float(_received is not None), float(steps if torch.distributed.get_rank() == 0 else 0)]
    on_gpu = torch.distributed.get_backend() == "nccl"
    device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
    greatest = torch.tensor(mine, device=device)
    torch.distributed.all_reduce(greatest, torch.distributed.ReduceOp.MAX)
    stop, steps = greatest.tolist()
    _calls, _next, _last = 0, int(steps), now
    return bool(stop)


@contextmanager
def listening() -> Iterator[None]:
    """Within the block, the first signal asks to stop at the next step; the second has its usual effect.

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

    before: dict[int, Any] = {number: signal.getsignal(number) or signal.SIG_DFL for number in SIGNALS}
    if before[signal.SIGHUP] == signal.SIG_IGN:  # Under nohup the run outlives its terminal.
        del before[signal.SIGHUP]
    for number in before:
        signal.signal(number, note)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # A Slurm task holds them from its start.
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
