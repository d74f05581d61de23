"""The commands: `autosparse irp ...`, and `python launch/irp.py ...`, which is the same."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import make_dataclass
from importlib import import_module
from typing import Annotated, Any

import tyro

import autosparse
from autosparse.command import parse, run
from autosparse.errors import unknown

COMMANDS: Mapping[str, str] = {
    "demo": "the whole pipeline in minutes: iterative pruning, a fit, baselines, a report",
    "irp": "prune networks iteratively, and store what survives",
    "fit": "fit AutoS, the learned criterion, to runs of irp",
    "prune": "prune networks before training by a criterion, and train them",
    "report": "tables and figures of runs",
    "paper": "whole experiments by name",
    "board": "where criteria stand at equal cost, over paired seeds",
    "data": "get a data set",
    "runs": "watch, stop and resume runs; runs --live follows them",
    "serve": "show runs as a web page that updates by itself",
    "store": "look into a store of triples, check it, take it elsewhere",
}
"""Maps a command, which is the name of its module, too, to its description."""


def start(module: str, args: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Run a command's module with the arguments of the command line, or those given; `prog` is its name in help."""
    found = _module(module)
    words = sys.argv[1:] if args is None else args
    run(found.Arguments, found.main, getattr(found, "meant", list)(words), prog)


def _module(name: str) -> Any:
    return import_module("autosparse.store.__main__" if name == "store" else f"autosparse.cli.{name}")


def main() -> None:
    """Run `autosparse`: print one screen, or run a command."""
    name, *args = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(_screen())
    elif name.startswith("--tyro-"):  # a script of completions for a shell, of all commands in one
        parse(_together(), sys.argv[1:], "autosparse")
    elif name == "--version":
        print(autosparse.__version__)
    elif name in COMMANDS:
        start(name, args, f"autosparse {name}")
    else:
        print(f"error: {unknown('command', name, COMMANDS)}", file=sys.stderr)
        sys.exit(2)


def _together() -> Any:
    """All commands as the subcommands of one."""
    commands: Any = None
    for name, what in COMMANDS.items():
        arguments = _module(name).Arguments
        kind: Any = Annotated[arguments, tyro.conf.subcommand(name, description=what)]
        commands = kind if commands is None else commands | kind
    return make_dataclass("Together", [("command", commands)])


def _screen() -> str:
    lines = [f"  {name:<8}{what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            "usage: autosparse COMMAND [OPTIONS]",
            "",
            *lines,
            "",
            "autosparse COMMAND --help lists the options of one; start with: autosparse demo",
            "completion: autosparse --tyro-print-completion bash, zsh or tcsh prints a script for the shell",
        ]
    )
