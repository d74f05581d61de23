"""What every benchmark prints first, and how it measures."""

import datetime
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable

import torch

from autosparse.cluster.record import versions


def heading() -> None:
    """Print command, date, hardware and versions."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    shown = {name: versions()[name] for name in ("python", "torch", "zarr", "accelerate")}
    name = sys.argv[0].rpartition("/")[2].removesuffix(".py")
    print(f"command   python -m benchmarks.{' '.join([name, *sys.argv[1:]])}")
    print(f"date      {datetime.date.today().isoformat()}")
    print(f"hardware  {_cpu()}, {torch.get_num_threads()} threads, {gpu}")
    print(f"versions  {', '.join(f'{package} {version}' for package, version in shown.items())}")


def median_seconds(action: Callable[[], object], repeats: int) -> float:
    """Median wall time of an action."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def peak_memory() -> float:
    """The largest resident memory of this process so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
