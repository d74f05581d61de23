"""All that is measured on a GPU, one benchmark after the other, within ten minutes, into one file.

What takes longer than its share is stopped, and the file says so; the others go on.
"""

import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from autosparse.command import run


@dataclass(frozen=True)
class Arguments:
    """Run the benchmarks that want a GPU."""

    device: Literal["cuda", "cpu"] = "cuda"
    """Where; without a GPU, cuda is skipped."""
    output: Path = Path("gpu.md")
    """The file that gets what they print."""
    dataset: str = "cifar10"
    """The data set that is trained on."""
    parameters: int = 144_000_000
    """How many are scored and fitted to."""
    minutes: float = 10.0
    """For all of them."""


@dataclass(frozen=True)
class Part:
    """A benchmark, its options, and its share of the minutes."""

    name: str
    options: tuple[str, ...]
    share: float


def parts(a: Arguments) -> tuple[Part, ...]:
    """Return the benchmarks of training, runs that share a GPU, scoring and a fit."""
    few = () if a.device == "cuda" else ("--images", "512")  # the CPU is for trying whether all run
    size = ("--sizes", str(a.parameters), "--limit", str(a.parameters), "--enough", "0")
    return (
        Part("irp_gpu", ("--device", a.device, "--dataset", a.dataset, *few), 0.25),
        Part("workers", ("--slurm-runs", "0", "--runs", "16"), 0.25),
        Part("score", ("--device", a.device, "--parameters", str(a.parameters)), 0.25),
        Part("scale", (*size, "--fit"), 0.25),
    )


def main(a: Arguments) -> None:
    """Run the benchmarks; print and write every line as it comes."""
    if a.device == "cuda" and not torch.cuda.is_available():
        print("no GPU here, so nothing to measure: skipped (--device cpu runs the same on the CPU)")
        return
    with a.output.open("w", buffering=1) as file:

        def say(line: str) -> None:
            print(line, flush=True)
            print(line, file=file)

        say("# On a GPU")
        for part in parts(a):
            start, seconds = time.perf_counter(), 60 * a.minutes * part.share
            command = [sys.executable, "-m", f"benchmarks.{part.name}", *part.options]
            say(f"\n## {part.name}\n")
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
                stop = threading.Timer(seconds, process.kill)
                stop.start()
                for line in process.stdout or ():
                    say(line.rstrip())
                code = process.wait()
                stop.cancel()
            took = time.perf_counter() - start
            end = f"was stopped at its share of {seconds:.0f} s" if took >= seconds else "ended"
            say(f"\n{part.name} {end} after {took:.0f} s" + (f" with {code}." if code and took < seconds else "."))


if __name__ == "__main__":
    run(Arguments, main)
