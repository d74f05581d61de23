"""Command lines: arguments from a dataclass, errors in one line, exit codes."""

import inspect
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from contextvars import ContextVar
from dataclasses import MISSING, field, fields, is_dataclass, make_dataclass, replace
from typing import Annotated, Any, TypeVar, get_type_hints

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from autosparse import options
from autosparse.errors import UserError, refused

Arguments = TypeVar("Arguments")

_CONFIG = (tyro.conf.OmitArgPrefixes,)
_HELP = (*_CONFIG, tyro.conf.FlagCreatePairsOff)  # --no-FLAG is said once, not of each flag

_DEFAULT = " Default: "  # It begins the last sentence of an option's help.
_REGISTRY = ConstructorRegistry()
_by_tyro: ContextVar[bool] = ContextVar("by_tyro", default=False)


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
        full = _resources(kind)
        return tyro.cli(hints["resources"], args=["--help"], default=full, prog=prog, config=_HELP, registry=_REGISTRY)
    helping = bool({"-h", "--help"} & {*args})
    if helping and "resources" in hints:
        kind = _folded(kind, hints["resources"].__base__)
    if not helping:
        _check_lists(kind, args)
    about = f"{inspect.getdoc(kind)}\n\n{options.HELP}"
    config = _HELP if helping else _CONFIG
    return tyro.cli(kind, args=args, prog=prog, description=about, config=config, registry=_REGISTRY)


@_REGISTRY.struct_rule
def _documented(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Return the options of a dataclass as tyro finds them, with help as `_with_help` writes it."""
    if not is_dataclass(info.type) or _by_tyro.get():
        return None
    token = _by_tyro.set(True)
    try:
        spec: Any = ConstructorRegistry.get_struct_spec(info)
    finally:
        _by_tyro.reset(token)
    declared = {each.name: each.default for each in fields(info.type)}
    return replace(spec, fields=tuple(_with_help(each, declared.get(each.name, MISSING)) for each in spec.fields))


def _with_help(option: StructFieldSpec, declared: Any) -> StructFieldSpec:
    """Return an option with its help as one paragraph that ends in `Default: X.`

    X is what the docstring says after `Default:`, or else the value. A default that differs from the class's, such as
    that of a site's profile, is always shown as a value.

    Args:
        option: the option as tyro finds it.
        declared: its default in the class.
    """

    def parts() -> tuple[str, str]:
        """Return the help, and the default as the docstring says it."""
        help_of = option.helptext() if callable(option.helptext) else option.helptext
        text, _, said = " ".join((help_of or "").split()).partition(_DEFAULT)
        return text, said if option.default == declared else ""

    def shown() -> str | None:
        return parts()[0] or None

    def hint(value: str) -> str:
        return _DEFAULT.lstrip() + (parts()[1] or f"{'none' if value in ('', 'None') else value}.")

    annotated: Any = Annotated[option.type, tyro.conf.arg(help_behavior_hint=hint)]
    helptext = shown if callable(option.helptext) else shown()  # Reading the source of all classes takes 0.2 s.
    return replace(option, helptext=helptext, type=annotated)


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
    except BrokenPipeError:  # The reader of the output has closed it; Python must not try to write the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
    except OSError as error:  # a full disk, a folder that may not be written to
        sys.exit(_report(refused(error), 1))
    except KeyboardInterrupt:
        sys.exit(_report("interrupted; the same command goes on from here", 130))


def _report(message: str, code: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code
