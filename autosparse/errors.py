"""Errors that the user can fix: one line that says what is wrong, what is valid and what to run."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake that the user can fix. Command lines print only its text, without a traceback.

    Examples:
        >>> try:
        ...     autosparse.prune(model, batches, sparsity=95)
        ... except autosparse.UserError as error:
        ...     print(error)
        sparsity must be a number between 0 and 1 (0.95 removes 95% of the weights), got 95
    """


class StoreError(UserError):
    """A triple store that is damaged, unfinished, or not what was asked for.

    Examples:
        >>> from autosparse.store import TripleStore
        >>> try:
        ...     TripleStore.open("runs/irp/NONE")
        ... except autosparse.StoreError as error:
        ...     print("refused")
        refused
    """


def refused(error: OSError) -> str:
    """Return an error of the operating system in one line: `No space left on device: FILE`."""
    return f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: `1 run`, `2 runs`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def unknown(kind: str, name: object, valid: Iterable[object]) -> UserError:
    """Return the error for a value outside a closed set, which names the nearest of the valid ones and lists them."""
    names = [str(each) for each in valid]
    near = difflib.get_close_matches(str(name).lower(), names, 1)
    meant = f"did you mean {near[0]}? " if near else ""
    apart = "; several are given with spaces between them, no commas" if "," in str(name) else ""
    return UserError(f"unknown {kind} {name!r}; {meant}valid: {', '.join(names)}{apart}")
