"""What a run keeps beside its store and reads again, compared with the digests that the store's ledger committed.

A file has its own name in the ledger, each row of the history `history.json/0`, `history.json/1`, ... A ledger from
before the digests were there has none, and nothing is compared.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autosparse.errors import UserError
from autosparse.files import digest_of, read_json

HISTORY = "history.json"
_AGAIN = "delete this file alone, and the command of the run makes it again"


def of_file(path: Path) -> dict[str, str]:
    """What the ledger is to say of a file."""
    return {path.name: digest_of(path)}


def of_row(row: Mapping[str, Any]) -> dict[str, str]:
    """What the ledger is to say of a row of the history."""
    text = json.dumps(row, sort_keys=True)
    return {f"{HISTORY}/{row['iteration']}": hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}


def agrees(beside: Mapping[str, str], found: Mapping[str, str]) -> bool:
    """Whether what was found is what the ledger says, as far as it says anything of it."""
    return all(beside.get(name, digest) == digest for name, digest in found.items())


def check_file(path: Path, beside: Mapping[str, str]) -> None:
    """Compare a file with the ledger.

    Raises:
        UserError: it is another than was committed.
    """
    if not agrees(beside, of_file(path)):
        raise UserError(f"{path} is not what the run committed; {_AGAIN}")


def read_history(folder: Path, beside: Mapping[str, str]) -> list[dict[str, Any]]:
    """The rows of a run's `history.json`, as far as there are any.

    Raises:
        UserError: it is damaged, or a row is another than was committed (names the iteration).
    """
    path = folder / HISTORY
    if not path.is_file():
        return []
    try:
        rows: list[dict[str, Any]] = read_json(path)
        wrong = next(
            (i for i, row in enumerate(rows) if row["iteration"] != i or not agrees(beside, of_row(row))), None
        )
    except (UserError, TypeError, KeyError) as error:
        raise UserError(f"{path} is damaged; {_AGAIN}") from error
    if wrong is not None:
        raise UserError(f"{path} is not what the run committed (iteration {wrong}); {_AGAIN}")
    return rows
