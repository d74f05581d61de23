"""Digests of the files that a run keeps next to its store and reads again, as the store's ledger committed them.

A file is recorded by its name, a row of the history as `history.json/0`, `history.json/1`, ... A digest that the ledger
does not hold is not compared.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autosparse.errors import UserError
from autosparse.files import digest_of, read_json

HISTORY = "history.json"
_ADVICE = "delete this file alone, and the command of the run makes it again"


def file_digest(path: Path) -> dict[str, str]:
    """Return the digest of a file, as the ledger records it."""
    return {path.name: digest_of(path)}


def row_digest(row: Mapping[str, Any]) -> dict[str, str]:
    """Return the digest of a row of the history, as the ledger records it."""
    text = json.dumps(row, sort_keys=True)
    return {f"{HISTORY}/{row['iteration']}": hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}


def agree(committed: Mapping[str, str], digests: Mapping[str, str]) -> bool:
    """Return True if none of the digests differs from the committed one."""
    return all(committed.get(name, digest) == digest for name, digest in digests.items())


def check_file(path: Path, committed: Mapping[str, str]) -> None:
    """Raise `UserError` if a file is not what the run committed."""
    if not agree(committed, file_digest(path)):
        raise UserError(f"{path} is not what the run committed; {_ADVICE}")


def read_history(folder: Path, committed: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the rows of a run's `history.json`, or none if the file does not exist.

    Raise `UserError` if the file is damaged, or a row is not what the run committed (names the iteration).
    """
    path = folder / HISTORY
    if not path.is_file():
        return []
    try:
        rows: list[dict[str, Any]] = read_json(path)
        wrong = [i for i, row in enumerate(rows) if row["iteration"] != i or not agree(committed, row_digest(row))]
    except (UserError, TypeError, KeyError) as error:
        raise UserError(f"{path} is damaged; {_ADVICE}") from error
    if wrong:
        raise UserError(f"{path} is not what the run committed (iteration {wrong[0]}); {_ADVICE}")
    return rows
