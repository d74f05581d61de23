"""Options as a file: what `--config FILE.yaml` says as the words of a command line, and what runs write for it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import tyro
import yaml

from autosparse.errors import UserError, unknown

SECTION = "options"
"""The section of a run's `config.yaml` that says by which options it was made."""
HELP = (
    "--config FILE.yaml: options from a file, a run's config.yaml, say; those of the command line win. "
    "--no-FLAG switches off a FLAG of the file."
)
_NOTHING = ("", "null", "~")
_TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}  # as YAML 1.1 has it


def plain(value: Any) -> Any:
    """A field's value as one of YAML."""
    if isinstance(value, tuple):
        return [plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def of(config: Any) -> dict[str, Any]:
    """The options that a dataclass, with those nested in it, stands for, as values of YAML; None is not said."""
    found: dict[str, Any] = {}
    hints = get_type_hints(type(config), include_extras=True)
    for each in fields(config):
        value = getattr(config, each.name)
        if is_dataclass(value):
            found |= of(value)
        elif value is not None:
            found[_names(each.name, hints[each.name])[0]] = plain(value)
    return found


def expanded(kind: type[Any], args: Sequence[str]) -> list[str]:
    """A command line with the options of the file that `--config` names before its own, which so win.

    Args:
        kind: the dataclass of the command.
        args: its command line, positional words before options.

    Raises:
        UserError: the file is not there, is no YAML of options, or has an unknown one (names the nearest).
    """
    args = list(args)
    place = next((k for k, word in enumerate(args) if word.partition("=")[0] == "--config"), None)
    if place is None:
        return args
    _, equals, name = args.pop(place).partition("=")
    if not equals:
        if place == len(args):
            raise UserError("--config needs a file: --config FILE.yaml")
        name = args.pop(place)
    if any(word.partition("=")[0] == "--config" for word in args):
        raise UserError("--config can be given once")
    first = next((k for k, word in enumerate(args) if word.startswith("-")), len(args))
    return [*args[:first], *_words(kind, Path(name), args), *args[first:]]


def _words(kind: type[Any], path: Path, args: Sequence[str]) -> list[str]:
    """The words of a file; its positional ones only where the command line begins with none."""
    said = _read(path)
    chosen = ["--task", said["task"]] if isinstance(said.get("task"), str) else []
    with getattr(kind, "reading", lambda args: nullcontext())([*chosen, *args]):
        valid = {name: hint for names, hint in named(kind) for name in names}
    positionals, words = list[str](), list[str]()
    for key, value in said.items():
        hint = valid.get(key.replace("_", "-"))
        if hint is None:
            raise UserError(f"{path}: {unknown('option', key.replace('_', '-'), sorted(valid))}")
        given = texts(path, key, value)
        flag = f"--{key.replace('_', '-')}"
        if tyro.conf.Positional in _marks(hint):
            positionals += [] if args and not args[0].startswith("-") else given
        elif hint is bool:
            if len(given) != 1 or given[0].lower() not in _TRUTH:
                raise UserError(f"{path}: {key} must be true or false, got {value}")
            words.append(flag if _TRUTH[given[0].lower()] else f"--no-{flag[2:]}")
        elif given or isinstance(value, list):
            words += [flag, *given]
    return [*positionals, *words]


def _read(path: Path) -> Mapping[str, Any]:
    """A file of options; of the `config.yaml` of a run the section of options."""
    try:
        said = typed(path)
    except OSError as error:
        raise UserError(f"--config {path}: {error.strerror}; it takes a file of options, OPTION: VALUE") from None
    if isinstance(said.get(SECTION), dict):
        return dict(said[SECTION])
    if "kind" in said:
        raise UserError(f"{path} is of a run that does not say its options; its command is in environment.json")
    return said


def typed(path: Path) -> dict[str, Any]:
    """The options of a YAML file, their values as they would be typed on a command line.

    Raises:
        UserError: it is no YAML, no list of options, or has one twice, of which PyYAML would take the last.
        OSError: it cannot be read.
    """
    try:
        # YAML's own types would make 720 minutes of 12:00:00, and False of a partition "no"
        loader = yaml.BaseLoader(path.read_text(encoding="utf-8"))
        top = loader.get_single_node()
        said = loader.construct_document(top) if top else {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        raise UserError(f"{path} is no YAML{f', see line {mark.line + 1}' if mark else ''}") from None
    if not isinstance(said, dict):
        raise UserError(f"{path} is no list of OPTION: VALUE")
    keys = [key.value for key, _ in top.value] if top else []
    if len(said) < len(keys):
        raise UserError(f"{path} has {max(keys, key=keys.count)} twice")
    return said


def texts(path: Path, key: str, value: Any) -> list[str]:
    """The words of an option's value in a file; none for null.

    Raises:
        UserError: it is neither a value nor a list of values.
    """
    found = value if isinstance(value, list) else [value] * (value not in _NOTHING)
    if not all(isinstance(text, str) for text in found):
        raise UserError(f"{path}: {key} must be a value or a list of values, got {value!r}")
    return found


def named(kind: type[Any]) -> Iterator[tuple[list[str], Any]]:
    """Yield the names, as on the command line, and the type of each option of a dataclass and of those nested in it."""
    hints = get_type_hints(kind, include_extras=True)
    for each in fields(kind):
        hint = hints[each.name]
        bare = hint.__origin__ if hasattr(hint, "__metadata__") else hint
        made = [found for mark in _marks(hint) if (found := getattr(mark, "constructor_factory", None))]
        nested = [factory() for factory in made] or [part for part in (bare, *get_args(bare)) if is_dataclass(part)]
        if nested:
            for part in nested:
                yield from named(part)
        elif tyro.conf.Suppress not in _marks(hint):
            names = [name.lstrip("-").replace("_", "-") for name in _names(each.name, hint)]
            yield names, hint if tyro.conf.Positional in _marks(hint) else bare


def lists(kind: type[Any]) -> dict[str, Any]:
    """The flags of a dataclass that take several numbers, or names of a choice, which have no commas; their type."""
    return {
        f"--{name}": element
        for names, hint in named(kind)
        for name in names
        if get_origin(hint) is tuple
        and ((element := get_args(hint)[0]) in (int, float) or get_origin(element) is Literal)
    }


def _marks(hint: Any) -> tuple[Any, ...]:
    return getattr(hint, "__metadata__", ())


def _names(field: str, hint: Any) -> list[str]:
    """What an option is called: as its mark says, else as its field; and its other names."""
    marks = _marks(hint)
    name = next((mark.name for mark in marks if getattr(mark, "name", None)), field)
    return [name, *(alias for mark in marks for alias in getattr(mark, "aliases", None) or ())]
