"""A job for tests: it writes a word."""

import json
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from autosparse.cluster import Job, interruption
from autosparse.cluster.interruption import InterruptedAtStep
from autosparse.config import NO_IDENTITY
from autosparse.errors import UserError


@dataclass(frozen=True)
class Note(Job):
    """Writes a word, once those it reads are there; fails if asked to."""

    kind = "note"

    output: Path = field(metadata=NO_IDENTITY)
    word: str
    fail: str = ""
    seconds: float = field(default=0.0, metadata=NO_IDENTITY)
    reads: tuple[str, ...] = field(default=(), metadata=NO_IDENTITY)

    @property
    def folder(self) -> Path:
        return self.output / f"note_{self.word}"

    def missing(self) -> str | None:
        absent = [word for word in self.reads if not Note(self.output, word).is_complete()]
        return f"there is no {absent[0]}" if absent else None

    def identity(self) -> dict[str, Any]:
        assert not self.missing()
        return super().identity() | {
            "read": [(Note(self.output, word).folder / "word").read_text() for word in self.reads]
        }

    def is_complete(self) -> bool:
        return (self.folder / "word").is_file()

    def run(self, accelerator: Accelerator) -> None:
        start = time.time()
        time.sleep(self.seconds)
        if self.fail == "user":
            raise UserError("no such word")
        if self.fail == "exit":
            raise SystemExit(0)
        if self.fail == "_exit":
            os._exit(0)
        if self.fail == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fail == "memory":
            bytearray(1 << 60)
        if self.fail == "deaf":
            time.sleep(600)
        if self.fail == "rank 1":
            if accelerator.process_index == 1:
                raise UserError("the second process has had enough")
            accelerator.wait_for_everyone()
        if self.fail == "asked":
            while not interruption.agreed():
                time.sleep(0.01)
        if self.fail in ("stop", "asked"):
            raise InterruptedAtStep("enough")
        if self.fail:
            raise ZeroDivisionError("a bug\nin two lines")
        with (self.folder / f"span{accelerator.process_index}").open("w") as file:
            json.dump([start, time.time(), accelerator.num_processes, os.environ.get("CUDA_VISIBLE_DEVICES")], file)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            (self.folder / "word").write_text(self.word)
