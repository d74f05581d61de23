"""Options as a file: what `--config FILE.yaml` says as the words of a command line, and what runs write for it."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import tyro
import yaml

from autosparse.errors import UserError

SECTION = "options"
"""The section of a run's `config.yaml` that says by which options it was made."""
HELP = "--config FILE.yaml: options from a file, a run's config.yaml, say; those of the command line win."
_NOTHING = ("", "null", "~")


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
    first = next((k for k, word in enumerate(args) if word.startswith("-")), len(args))
    return [*args[:first], *_words(kind, Path(name), args), *args[first:]]


def _words(kind: type[Any], path: Path, args: Sequence[str]) -> list[str]:
    """The words of a file; its positional ones only where the command line begins with none."""
    said = _read(path)
    chosen = ["--task", said["task"]] if isinstance(said.get("task"), str) else []
    with getattr(kind, "reading", lambda args: nullcontext())([*chosen, *args]):
        valid = {name: hint for names, hint in _options(kind) for name in names}
    positionals, words = list[str](), list[str]()
    for key, value in said.items():
        hint = valid.get(key.replace("_", "-"))
        if hint is None:
            near = difflib.get_close_matches(key.replace("_", "-"), valid, 1)
            meant = f"did you mean {near[0]}? " if near else ""
            raise UserError(f"{path}: unknown option {key}; {meant}valid: {', '.join(sorted(valid))}")
        texts = value if isinstance(value, list) else [value] * (value not in _NOTHING)
        if not all(isinstance(text, str) for text in texts):
            raise UserError(f"{path}: {key} must be a value or a list of values, got {value!r}")
        flag = f"--{key.replace('_', '-')}"
        if tyro.conf.Positional in _marks(hint):
            positionals += [] if args and not args[0].startswith("-") else texts
        elif hint is bool:
            words += [flag] * (texts == ["true"])
        elif texts or isinstance(value, list):
            words += [flag, *texts]
    return [*positionals, *words]


def _read(path: Path) -> Mapping[str, Any]:
    """A file of options, its values as they would be typed; of the `config.yaml` of a run the section of options."""
    try:
        # YAML's own types would make 720 minutes of 12:00:00
        said = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        raise UserError(f"{path} is no YAML{f', see line {mark.line + 1}' if mark else ''}") from None
    except OSError as error:
        raise UserError(f"--config {path}: {error.strerror}; it takes a file of options, OPTION: VALUE") from None
    if isinstance(said, dict) and isinstance(said.get(SECTION), dict):
        return dict(said[SECTION])
    if isinstance(said, dict) and "kind" in said:
        raise UserError(f"{path} is of a run that does not say its options; its command is in environment.json")
    if not isinstance(said, dict):
        raise UserError(f"{path} is no list of OPTION: VALUE")
    return said


def _options(kind: type[Any]) -> Iterator[tuple[list[str], Any]]:
    """The names, as on the command line, and the type of each option of a dataclass and of those nested in it."""
    hints = get_type_hints(kind, include_extras=True)
    for each in fields(kind):
        hint = hints[each.name]
        bare = hint.__origin__ if hasattr(hint, "__metadata__") else hint
        made = [found for mark in _marks(hint) if (found := getattr(mark, "constructor_factory", None))]
        nested = [factory() for factory in made] or [part for part in (bare, *get_args(bare)) if is_dataclass(part)]
        if nested:
            for part in nested:
                yield from _options(part)
        elif tyro.conf.Suppress not in _marks(hint):
            names = [name.lstrip("-").replace("_", "-") for name in _names(each.name, hint)]
            yield names, hint if tyro.conf.Positional in _marks(hint) else bare


def _marks(hint: Any) -> tuple[Any, ...]:
    return getattr(hint, "__metadata__", ())


def _names(field: str, hint: Any) -> list[str]:
    """What an option is called: as its mark says, else as its field; and its other names."""
    marks = _marks(hint)
    name = next((mark.name for mark in marks if getattr(mark, "name", None)), field)
    return [name, *(alias for mark in marks for alias in getattr(mark, "aliases", None) or ())]
