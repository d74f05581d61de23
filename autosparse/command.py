"""What all command lines share: arguments from a dataclass, one line for a user's mistake, exit codes."""

import contextlib
import io
import itertools
import re
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import tyro

from autosparse.errors import UserError

Arguments = TypeVar("Arguments")

_CONFIG = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)


def parse(kind: type[Arguments], args: list[str] | None = None) -> Arguments:
    """Read a dataclass from the command line.

    Raises:
        UserError: unknown flags (lists the valid ones), or a value that does not fit.
        SystemExit: `--help` was printed.
    """
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            parsed: Any = tyro.cli(kind, args=args, config=_CONFIG, return_unknown_args=True)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(_one_line(message.getvalue())) from None
    arguments, unknown = parsed
    if unknown:
        given = sys.argv[1:] if args is None else args
        before = list(itertools.takewhile(lambda word: not word.startswith("-"), given))  # names a subcommand, if any
        raise UserError(f"unknown argument {unknown[0]!r}; valid: {' '.join(_flags(kind, before)) or '--help'}")
    return arguments


def run(kind: type[Arguments], main: Callable[[Arguments], None], args: list[str] | None = None) -> None:
    """Parse, run `main`, and turn the user's mistakes into one line on standard error and exit code 2."""
    try:
        main(parse(kind, args))
    except UserError as error:
        sys.exit(_report(str(error), 2))
    except OSError as error:  # a full disk, a folder that may not be written to
        sys.exit(_report(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), 1))
    except KeyboardInterrupt:
        sys.exit(_report("interrupted; the same command goes on from here", 130))


def _report(message: str, code: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code


def _flags(kind: type[Any], before: list[str]) -> list[str]:
    """Every flag of a dataclass behind these words, off the help text."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        tyro.cli(kind, args=[*before, "--help"], config=_CONFIG)
    return sorted(set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text.getvalue())) - {"--help"})


def _one_line(panel: str) -> str:
    """The text of tyro's panel (title, text, help, between rules and in a frame where the terminal has one)."""
    _title, *lines = [line.strip(" │╭╮╰╯─") for line in panel.splitlines() if line.strip(" │╭╮╰╯─")] or [""]
    text: list[str] = []
    for line in lines:
        if not line.strip("-"):
            if text:
                break
            continue
        text.append(line)
    return re.split(r" (?:For full helptext|Argument helptext:|Got errors:)", " ".join(text))[0]
