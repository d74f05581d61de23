"""Options as values: names and types of the options of a dataclass, and files of options in YAML."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import tyro
import yaml
from tyro.constructors import ConstructorRegistry, PrimitiveTypeInfo, UnsupportedTypeAnnotationError

from autosparse.errors import UserError, unknown

SECTION = "options"
"""Section of a run's `config.yaml` with the options that ask for the run."""
_TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}  # as YAML 1.1 has it


def option_values(config: Any, identity: bool = False) -> dict[str, Any]:
    """Return the options that a dataclass holds, with those of nested dataclasses, as values of YAML, by their names.

    Args:
        config: the dataclass.
        identity: leave out the fields that are marked with `autosparse.config.NO_IDENTITY`, and nest the values of a
            field `recipe` below its name.
    """
    hints = get_type_hints(type(config), include_extras=True)
    values: dict[str, Any] = {}
    for field in fields(config):
        if identity and not field.metadata.get("identity", True):
            continue
        value = getattr(config, field.name)
        name = option_names(field.name, hints[field.name])[0].replace("-", "_")
        if not is_dataclass(value):
            values[name] = plain(value)
        elif identity and name == "recipe":
            values[name] = option_values(value, identity)
        else:
            values |= option_values(value, identity)
    return values


def plain(value: Any) -> Any:
    """Return a field's value as a value of YAML."""
    if isinstance(value, tuple | list):
        return [plain(element) for element in value]
    return str(value) if isinstance(value, Path) else value


def option_fields(kind: Any) -> Iterator[tuple[str, Any]]:
    """Yield the name and the type of each field of a dataclass, and of the dataclasses nested in it instead of them."""
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        hint = hints[field.name]
        nested = [part for part in (bare(hint), *get_args(bare(hint))) if is_dataclass(part)]
        for part in nested:
            yield from option_fields(part)
        if not nested:
            yield field.name, hint


def option_types(kind: Any) -> dict[str, Any]:
    """Return the types of the options of a dataclass by each of their names, with dashes."""
    return {
        name.lstrip("-").replace("_", "-"): hint
        for field, hint in option_fields(kind)
        if tyro.conf.Suppress not in marks(hint)
        for name in option_names(field, hint)
    }


def option_names(field: str, hint: Any) -> list[str]:
    """Return what an option is called: by the mark of its type, else as its field; and its other names."""
    name = next((mark.name for mark in marks(hint) if getattr(mark, "name", None)), field)
    return [name, *(alias for mark in marks(hint) for alias in getattr(mark, "aliases", None) or ())]


def marks(hint: Any) -> tuple[Any, ...]:
    """Return the marks of a type that is `Annotated`."""
    return getattr(hint, "__metadata__", ())


def bare(hint: Any) -> Any:
    """Return a type without its marks."""
    return hint.__origin__ if marks(hint) else hint


def typed(hint: Any, texts: list[str]) -> Any:
    """Return the value of an option, read from words as the command line reads them.

    Raises a `ValueError` where they do not fit the type; its message is what they must be.
    """
    if bare(hint) is bool:
        if len(texts) != 1 or texts[0].lower() not in _TRUTH:
            raise ValueError("true or false")
        return _TRUTH[texts[0].lower()]
    spec = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(hint, set()))
    if isinstance(spec, UnsupportedTypeAnnotationError):
        raise ValueError("given in Python")
    if wrong := [text for text in texts if spec.choices and text not in spec.choices]:
        raise unknown("value", wrong[0], spec.choices or ())
    counts = spec.nargs if isinstance(spec.nargs, tuple) else (spec.nargs,)
    expected = spec.metavar.removeprefix("{None}|")
    if "*" not in counts and len(texts) not in counts:
        raise ValueError(expected)
    try:
        return spec.instance_from_str(texts)
    except ValueError:
        raise ValueError(expected) from None


@dataclass(frozen=True)
class OptionsFile:
    """A file of options, `OPTION: VALUE` in YAML."""

    path: Path
    texts: Mapping[str, str | list[str]]
    """Values as they would be typed on a command line, by name with dashes."""

    @classmethod
    def read(cls, path: Path) -> "OptionsFile":
        """Read a file; of a run's `config.yaml`, the section of options."""
        try:
            content = path.read_text(encoding="utf-8")
            # YAML's own types would make 720 minutes of 12:00:00, and False of a partition "no"
            texts = yaml.load(content, yaml.BaseLoader) or {}
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; a file of options is needed, OPTION: VALUE") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            mark = getattr(error, "problem_mark", None)
            raise UserError(f"{path} is not valid YAML{f', see line {mark.line + 1}' if mark else ''}") from None
        if not isinstance(texts, dict):
            raise UserError(f"{path} is not a list of OPTION: VALUE")
        if isinstance(texts.get(SECTION), dict):
            texts = texts[SECTION]
        return cls(path, {key.replace("_", "-"): value for key, value in texts.items()})

    def check(self, valid: set[str]) -> None:
        """Refuse options that a command does not have; the error names the nearest option."""
        for name in self.texts:
            if name not in valid:
                raise UserError(f"{self.path}: {unknown('option', name, sorted(valid))}")

    def value(self, name: str, hint: Any, default: Any) -> Any:
        """Return the value of an option of a type; the default if the file does not have the option, or has null."""
        text = self.texts.get(name, "")
        if text in ("", "null", "~"):
            return default
        texts = text if isinstance(text, list) else [text]
        if not all(isinstance(word, str) for word in texts):
            raise UserError(f"{self.path}: {name} must be a value or a list of values, got {text!r}")
        try:
            return typed(hint, texts)
        except UserError as error:
            raise UserError(f"{self.path}: {name}: {error}") from None
        except ValueError as error:
            raise UserError(f"{self.path}: {name} must be {error}, got {text}") from None
