"""A job for tests: it writes a word."""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from autosparse.cluster import Job
from autosparse.errors import UserError


@dataclass(frozen=True)
class Note(Job):
    """Writes a word; fails if asked to."""

    output: Path
    word: str
    fail: str = ""
    seconds: float = 0.0

    @property
    def folder(self) -> Path:
        return self.output / f"note_{self.word}"

    def config(self) -> dict[str, Any]:
        return {"kind": "note", "word": self.word, "fail": self.fail}

    def is_complete(self) -> bool:
        return (self.folder / "word").is_file()

    def run(self, accelerator: Accelerator) -> None:
        start = time.time()
        time.sleep(self.seconds)
        if self.fail == "user":
            raise UserError("no such word")
        if self.fail == "rank 1":
            if accelerator.process_index == 1:
                raise UserError("the second process has had enough")
            accelerator.wait_for_everyone()
        if self.fail:
            raise ZeroDivisionError("a bug\nin two lines")
        with (self.folder / f"span{accelerator.process_index}").open("w") as file:
            json.dump([start, time.time(), accelerator.num_processes, os.environ.get("CUDA_VISIBLE_DEVICES")], file)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            (self.folder / "word").write_text(self.word)
