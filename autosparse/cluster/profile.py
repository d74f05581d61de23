"""What a site's users need not type: a YAML file of options and values, such as `partition: gpu`."""

import os
from dataclasses import fields, replace
from pathlib import Path

from autosparse.cluster.resources import Resources, spelled
from autosparse.command import parse
from autosparse.errors import UserError
from autosparse.options import OptionsFile

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
    found = _read(path)
    site = {each.name: value for each in fields(found) if (value := getattr(found, each.name)) != each.default}
    return replace(found, site=site)


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


def _read(path: Path) -> Resources:
    """Return the resources of a profile."""
    valid = [spelled(each.name) for each in fields(Resources) if each.name not in _PER_COMMAND]
    for name in OptionsFile.read(path).texts:
        if name not in valid:
            raise UserError(f"{path}: unknown key {name!r}; valid: {', '.join(valid)}")
    try:
        found = parse(Resources, ["--config", str(path)])
    except SystemExit:  # the value that is wrong has been named, with what is valid
        raise UserError(f"{path} has a value that does not fit, see above") from None
    return replace(found, log_dir=found.log_dir and found.log_dir.expanduser())
