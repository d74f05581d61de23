"""What the kinds of run share."""

from pathlib import Path

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
