"""Command lines: arguments from a dataclass and a file of options, errors in one line, exit codes."""

import argparse
import functools
import inspect
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast, get_args, get_origin, get_type_hints

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
    UnsupportedTypeAnnotationError,
)

from autosparse.errors import UserError, refused
from autosparse.options import OptionsFile, bare, marks, option_names, option_types

Arguments = TypeVar("Arguments")

_HELP = (
    "With --config FILE.yaml, options come from a file, such as a run's config.yaml; those of the command line win. "
    "--no-FLAG switches off a FLAG of the file."
)
_EMPTY = ("", "''", "None")  # values that help shows as none
_EXAMPLES = "Examples:"  # It begins the last section of a command's docstring.
_GROUPS = {"job": "Run", "setting": "Training", "config": "Method", "resources": "Slurm"}
"""Maps a field of options to their title in help; others have the field's name, as "Task"."""
_DEFAULT = " Default: "  # It begins the last sentence of an option's help.
CHOSEN = "the class that --task names"
"""Mark of a field whose class the command line chooses, by the `task_class` of the arguments."""


def choices(names: Iterable[str], alias: str | None = None, name: str | None = None) -> Any:
    """Return a mark of a text option whose help lists names; the option takes others, too."""
    return tyro.conf.arg(metavar=f"{{{','.join(names)}}}", aliases=[alias] if alias else None, name=name)


def parse(kind: type[Arguments], args: Sequence[str] | None = None, prog: str | None = None) -> Arguments:
    """Read a dataclass from the command line.

    Values of the file that `--config` names are the defaults of the options. Of the field `resources`, `--help` shows
    what most users need, the options of the class that its own extends; `--help-cluster` shows all. A `task_class` of
    the dataclass maps the name of a task to its class. Help ends with the examples of the dataclass's docstring.
    """
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--config", type=Path)
    early.add_argument("--task")
    known, words = early.parse_known_args(sys.argv[1:] if args is None else args)
    file = OptionsFile.read(known.config) if known.config else OptionsFile(Path(), {})
    words += ["--task", known.task] if known.task else []
    task = None
    if choose := getattr(kind, "task_class", None):
        task = choose(known.task or file.value("task", str, "images"))
    helping = bool({"-h", "--help"} & {*words})
    parser = _Parser(file, task, helping)
    if "--help-cluster" in words and (resources := get_type_hints(kind).get("resources")):
        return parser.read(resources, ["--help"], prog)
    file.check({*option_types(kind)} | ({*option_types(task)} if task else set()))
    text, _, examples = (inspect.getdoc(kind) or "").partition(f"{_EXAMPLES}\n")
    try:
        return parser.read(kind, words, prog, description=_wrapped(f"{text.strip()}\n\n{_HELP}"))
    finally:
        if helping and examples:
            print(f"{_EXAMPLES}\n{examples}")


def _wrapped(text: str) -> str:
    """Return paragraphs as wide as the terminal; tyro keeps a break before a line that is indented."""
    width = shutil.get_terminal_size().columns
    return "\n\n".join(textwrap.fill(part, width, subsequent_indent="  ") for part in text.split("\n\n"))


class _RefusedError(Exception):
    """A `UserError` on its way through tyro, which would show a `ValueError` in a box, under the name of a field."""


class _Parser:
    """Reads a command line with tyro, which asks `_options` what the options of each dataclass are.

    Attributes:
        file: values that replace the defaults.
        task: class of the field that is marked with `CHOSEN`; None for a command without such a field.
        helping: whether help is asked for.
    """

    def __init__(self, file: OptionsFile, task: Any, helping: bool) -> None:
        self.file, self.task, self.helping = file, task, helping
        self._by_tyro = False
        self._registry = ConstructorRegistry()
        self._registry.struct_rule(self._options)

    def read(self, kind: Any, args: Sequence[str], prog: str | None, **more: Any) -> Any:
        """Call tyro; `more` are arguments of `tyro.cli`."""
        config: list[Any] = [tyro.conf.OmitArgPrefixes]
        if "--help" in args or "-h" in args:
            config.append(tyro.conf.FlagCreatePairsOff)  # --no-FLAG is said once, not of each flag
        try:
            return tyro.cli(kind, args=args, prog=prog, config=config, registry=self._registry, **more)
        except _RefusedError as error:
            raise UserError(str(error)) from None

    def _options(self, info: StructTypeInfo) -> StructConstructorSpec | None:
        """Return the options of a dataclass as tyro finds them, with the defaults and help that they have here."""
        if not is_dataclass(info.type) or self._by_tyro:
            return None
        self._by_tyro = True
        try:
            spec: Any = ConstructorRegistry.get_struct_spec(info)
        finally:
            self._by_tyro = False
        hints = get_type_hints(info.type, include_extras=True)
        declared = {field.name: field.default for field in fields(info.type)}
        options = [self._option(option, hints[option.name], declared[option.name]) for option in spec.fields]

        @functools.wraps(spec.instantiate)  # tyro reads its docstring
        def make(*values: Any, **named: Any) -> Any:
            try:
                return spec.instantiate(*values, **named)
            except UserError as error:
                raise _RefusedError(str(error)) from None

        return replace(spec, fields=tuple(options), instantiate=make)

    def _option(self, option: StructFieldSpec, hint: Any, declared: Any) -> StructFieldSpec:
        """Return one option, or a group of options with its title; `declared` is its default in the class."""
        chosen = CHOSEN in marks(hint)
        if chosen:
            option = replace(option, type=self.task or type(option.default), default=tyro.MISSING_NONPROP)
        elif option.name == "resources" and self.helping:
            option = replace(option, type=hint.__base__, default=hint.__base__())
        if chosen or is_dataclass(bare(hint)):
            title = tyro.conf.arg(name=_GROUPS.get(option.name, option.name.capitalize()), prefix_name=False)
            return replace(option, type=cast(Any, Annotated[option.type, title]))
        default = option.default
        named = [] if tyro.conf.Suppress in marks(hint) else option_names(option.name, hint)
        names = [name.lstrip("-").replace("_", "-") for name in named]
        if len(given := [name for name in names if name in self.file.texts]) > 1:
            raise UserError(f"{self.file.path} has {given[0]} and {given[1]}, two names of one option; delete one")
        for name in names:
            default = self.file.value(name, hint, default)
        return _with_help(replace(option, default=default), hint, declared)


def _with_help(option: StructFieldSpec, hint: Any, declared: Any) -> StructFieldSpec:
    """Return an option with its help as one paragraph that ends in `Default: X`.

    X is what the docstring says after `Default:`, or else the value, as for a default that differs from the class's.
    Many choices, or those of an option of two names, are listed in the paragraph.
    """
    values = _values(hint)
    several, names = values.endswith("..."), values.removesuffix("...").strip("{}").replace(",", ", ")
    listed = values.startswith("{") and (len(values) > 40 or len(option_names(option.name, hint)) > 1)

    def parts() -> tuple[str, str]:
        """Return the help, and the default as the docstring says it."""
        help_of = option.helptext() if callable(option.helptext) else option.helptext
        text, _, default = " ".join((help_of or "").split()).partition(_DEFAULT)
        return text, default if option.default == declared else ""

    def shown() -> str | None:
        choices = f"{'Any' if several else 'One'} of {names}." if listed else ""
        return f"{parts()[0]} {choices}".strip() or None

    def behavior(value: str) -> str:
        if declared is MISSING:
            return "(required)"
        if option.default is False:
            return ""
        return _DEFAULT.lstrip() + (parts()[1] or ("none" if value in _EMPTY else value) + ".")

    metavar = ("NAME..." if several else "NAME") if listed else values
    annotated: Any = Annotated[option.type, tyro.conf.arg(metavar=metavar or None, help_behavior_hint=behavior)]
    helptext = shown if callable(option.helptext) else shown()  # Reading the source of all classes takes 0.2 s.
    return replace(option, helptext=helptext, type=annotated)


def _values(hint: Any) -> str:
    """Return how help shows the values of an option, such as `INT` or `{a,b}...`; nothing for a flag."""
    kind, elements = bare(hint), get_args(bare(hint))
    several = get_origin(kind) is tuple and elements[-1] is Ellipsis
    shown = next((mark.metavar for mark in marks(hint) if getattr(mark, "metavar", None)), "")
    if not shown and kind is not bool:
        spec = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(elements[0] if several else hint, set()))
        shown = "" if isinstance(spec, UnsupportedTypeAnnotationError) else spec.metavar.removeprefix("{None}|")
    return f"{shown.removesuffix('...')}..." if several else shown


def run(
    kind: type[Arguments],
    main: Callable[[Arguments], None],
    args: Sequence[str] | None = None,
    prog: str | None = None,
) -> None:
    """Parse a command line and run `main`; exit with one line on standard error and code 2 for a `UserError`."""
    try:
        main(parse(kind, args, prog))
    except UserError as error:
        sys.exit(_report(str(error), 2))
    except BrokenPipeError:  # The reader of the output has closed it; Python must not try to write the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
    except OSError as error:  # a full disk, a folder that may not be written to
        sys.exit(_report(refused(error), 1))
    except KeyboardInterrupt:
        sys.exit(_report("interrupted; the same command resumes", 130))


def _report(message: str, code: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code
