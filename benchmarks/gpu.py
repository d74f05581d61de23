"""All that is measured on a GPU, one benchmark after the other, within ten minutes, into one file.

What takes longer than its share is stopped, and the file says so; the others go on.
"""

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from autosparse.command import run
from autosparse.files import write_text


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
    """Return the benchmarks of training, scoring and a fit."""
    few = () if a.device == "cuda" else ("--images", "512")  # the CPU is for trying whether all run
    size = ("--sizes", str(a.parameters), "--limit", str(a.parameters), "--enough", "0")
    return (
        Part("irp_gpu", ("--device", a.device, "--dataset", a.dataset, *few), 0.3),
        Part("score", ("--device", a.device, "--parameters", str(a.parameters)), 0.3),
        Part("scale", (*size, "--fit"), 0.25),
    )


def main(a: Arguments) -> None:
    """Run, and write after each."""
    if a.device == "cuda" and not torch.cuda.is_available():
        print("no GPU here, so nothing to measure: skipped (--device cpu runs the same on the CPU)")
        return
    written = ["# On a GPU"]
    for part in parts(a):
        start, seconds = time.perf_counter(), 60 * a.minutes * part.share
        command = [sys.executable, "-m", f"benchmarks.{part.name}", *part.options]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            try:
                said, _ = process.communicate(timeout=seconds)
                end = f"ended with {process.returncode}" if process.returncode else "ended"
            except subprocess.TimeoutExpired:
                process.kill()
                said, _ = process.communicate()
                end = f"was stopped at its share of {seconds:.0f} s"
        written += [f"## {part.name}", said.strip(), f"{part.name} {end} after {time.perf_counter() - start:.0f} s."]
        print(written[-1], flush=True)
        write_text(a.output, "\n\n".join(written) + "\n")
    print(a.output)


if __name__ == "__main__":
    run(Arguments, main)
