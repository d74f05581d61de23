"""What the kinds of run share."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import Accelerator
from tqdm import tqdm

from autosparse.errors import UserError
from autosparse.files import read_json


def is_json(path: Path) -> bool:
    """Whether a file holds JSON values; one that does not is as good as not there."""
    try:
        return path.is_file() and bool(read_json(path))
    except UserError:
        return False


def check_seed(seed: int) -> None:
    """Refuse a seed that no generator takes."""
    if not 0 <= seed < 1 << 32:
        raise UserError(f"--seeds must lie in 0..{(1 << 32) - 1}, got {seed}")


@contextmanager
def progress_bar(steps: int, name: str, accelerator: Accelerator) -> Iterator[tqdm]:
    """A bar where a person is looking."""
    quiet = None if accelerator.is_main_process else True
    with tqdm(total=steps, desc=name, unit="step", disable=quiet, leave=False) as bar:
        yield bar
