"""What all command lines share: arguments from a dataclass, one line for what is refused, exit codes."""

import inspect
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import field, fields, make_dataclass
from typing import Any, TypeVar, get_type_hints

import tyro

from autosparse import options
from autosparse.errors import UserError, refused

Arguments = TypeVar("Arguments")

_CONFIG = (tyro.conf.OmitArgPrefixes,)
_HELP = (*_CONFIG, tyro.conf.FlagCreatePairsOff)  # --no-FLAG is said once, not of each flag


def choices(names: Iterable[str], alias: str | None = None, name: str | None = None) -> Any:
    """A mark of a text option whose help lists names; others may do, too. `name` is that of the option."""
    return tyro.conf.arg(metavar=f"{{{','.join(names)}}}", aliases=[alias] if alias else None, name=name)


def parse(kind: type[Arguments], args: Sequence[str] | None = None, prog: str | None = None) -> Arguments:
    """Read a dataclass from the command line.

    Of the field `resources`, `--help` shows what most users need, the options of the class that its own extends;
    `--help-cluster` shows all. A class with a method `reading` gets the arguments while they are read.

    Raises:
        SystemExit: help was printed, or (exit code 2) what is wrong and which option is nearest.
    """
    args = sys.argv[1:] if args is None else args
    with getattr(kind, "reading", lambda args: nullcontext())(args):
        return _parse(kind, args, prog)


def _parse(kind: type[Arguments], args: Sequence[str], prog: str | None) -> Arguments:
    hints = get_type_hints(kind)
    if "--help-cluster" in args and "resources" in hints:
        return tyro.cli(hints["resources"], args=["--help"], default=_resources(kind), prog=prog, config=_HELP)
    helping = bool({"-h", "--help"} & {*args})
    if helping and "resources" in hints:
        kind = _folded(kind, hints["resources"].__base__)
    if not helping:
        _check_lists(kind, args)
    about = f"{inspect.getdoc(kind)}\n\n{options.HELP}"
    return tyro.cli(kind, args=args, prog=prog, description=about, config=_HELP if helping else _CONFIG)


def _check_lists(kind: type[Any], args: Sequence[str]) -> None:
    """Refuse numbers and names of a list that stand between commas, which the parser says no more of than that.

    Raises:
        UserError: says how lists are spelled.
    """
    flag = ""
    lists = options.lists(kind)
    for word in args:
        value = word
        if word.startswith("--"):
            flag, _, value = word.partition("=")
        apart = value.replace(",", " ").split()
        if "," in value and flag in lists:
            decimal = lists[flag] is float and len(apart) == 2
            point = f", and a point in a number: {'.'.join(apart)}" if decimal else ""
            raise UserError(f"{flag} takes values with spaces between them: {flag} {' '.join(apart)}{point}")


def _resources(kind: type[Any]) -> Any:
    """The default of the field `resources`: what the site's profile says."""
    return next(each.default_factory() for each in fields(kind) if each.name == "resources")  # type: ignore[operator]


def _folded(kind: type[Any], shown: type[Any]) -> Any:
    """The same with a narrower field `resources`."""
    full = _resources(kind)
    default = shown(**{each.name: getattr(full, each.name) for each in fields(shown)})
    narrow: Any = ("resources", shown, field(default=default))
    namespace = {"__doc__": kind.__doc__}
    return make_dataclass(kind.__name__, [narrow], bases=(kind,), frozen=True, kw_only=True, namespace=namespace)


def run(
    kind: type[Arguments],
    main: Callable[[Arguments], None],
    args: Sequence[str] | None = None,
    prog: str | None = None,
) -> None:
    """Parse, run `main`, and turn what it refuses into one line on standard error and exit code 2."""
    try:
        main(parse(kind, options.expanded(kind, sys.argv[1:] if args is None else args), prog))
    except UserError as error:
        sys.exit(_report(str(error), 2))
    except BrokenPipeError:  # whoever read the output has seen enough; Python must not try to write the rest
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
    except OSError as error:  # a full disk, a folder that may not be written to
        sys.exit(_report(refused(error), 1))
    except KeyboardInterrupt:
        sys.exit(_report("interrupted; the same command goes on from here", 130))


def _report(message: str, code: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code
