"""Errors that the user can fix: one line that says what is wrong, what is valid and what to run."""

from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in what was asked for. Command lines print its text alone, without a traceback."""


class StoreError(UserError):
    """A triple store that is damaged, unfinished, or not what was asked for."""


def refused(error: OSError) -> str:
    """What the operating system refuses, and the file: `No space left on device: FILE`."""
    return f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")


def unknown(kind: str, name: object, valid: Iterable[str]) -> UserError:
    """The error for a name that no registry holds, listing those it does."""
    apart = "; several are given with spaces between them, no commas" if "," in str(name) else ""
    return UserError(f"unknown {kind} {name!r}; valid: {', '.join(valid)}{apart}")
