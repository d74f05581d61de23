"""What a site's users need not type: a YAML file of flags and values, such as `partition: gpu`."""

import os
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import yaml

from autosparse.cluster.resources import Resources, flag
from autosparse.errors import UserError

VARIABLE = "AUTOSPARSE_SLURM"
EXAMPLES = Path(__file__).parents[2] / "slurm" / "profiles"
_PER_COMMAND = ("after", "wait", "dry_run", "site")


def site_resources() -> Resources:
    """The resources of the site's profile, which a command line takes as its defaults.

    The profile is the one that $AUTOSPARSE_SLURM names (a path, or an example of slurm/profiles; none if it is empty),
    else ~/.config/autosparse/slurm.yaml, if there is one.

    Raises:
        UserError: it is not there, is no YAML, or has an unknown key or a value that does not fit.
    """
    path = _find()
    if path is None:
        return Resources()
    values = _read(path)
    try:
        return Resources(**values, site=values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _find() -> Path | None:
    name = os.environ.get(VARIABLE)
    if name is None:
        usual = Path.home() / ".config" / "autosparse" / "slurm.yaml"
        return usual if usual.is_file() else None
    if not name:
        return None
    for path in (EXAMPLES / f"{name}.yaml", Path(name).expanduser()):
        if path.is_file():
            return path
    examples = ", ".join(sorted(path.stem for path in EXAMPLES.glob("*.yaml")))
    raise UserError(f"${VARIABLE}: no profile {name}; valid: a path, or an example: {examples or 'none here'}")


def _read(path: Path) -> dict[str, Any]:
    """The values of a profile, by the names of fields."""
    try:
        # text as it would be typed: YAML's own types would make 720 minutes of 12:00:00, and False of a partition "no"
        entries = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        raise UserError(f"{path} is no YAML{f', see line {mark.line + 1}' if mark else ''}") from None
    if entries in (None, ""):
        return {}
    hints = {name: hint for name, hint in get_type_hints(Resources).items() if name not in _PER_COMMAND}
    keys = {flag(name).removeprefix("--"): name for name in hints}
    valid = f"valid keys: {', '.join(keys)}"
    if not isinstance(entries, dict):
        raise UserError(f"{path} is no list of KEY: VALUE; {valid}")
    values: dict[str, Any] = {}
    for key, entry in entries.items():
        if key not in keys:
            raise UserError(f"{path}: unknown key {key!r}; {valid}")
        if entry != "":
            try:
                values[keys[key]] = _value(hints[keys[key]], entry)
            except ValueError as error:
                raise UserError(f"{path}: {key} must be {error}, got {entry!r}; {valid}") from None
    return values


def _value(hint: Any, entry: Any) -> Any:
    """An entry as a field's type; the ValueError says what is wanted."""
    if hint == tuple[str, ...]:
        texts = entry if isinstance(entry, list) else [entry]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("a list of texts")
        return tuple(texts)
    if isinstance(entry, str):
        choices = [kind for kind in get_args(hint) if kind is not NoneType]
        if choices == [int]:
            if entry.lstrip("-").isdecimal():
                return int(entry)
            raise ValueError("a whole number")
        if choices == [Path]:
            return Path(entry).expanduser()
        if choices == [str] or entry in choices:
            return entry
        raise ValueError(f"one of {', '.join(choices)}")
    raise ValueError("a single value")
