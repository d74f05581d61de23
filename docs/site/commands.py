"""The options of the commands as Markdown, read from their help when the site is built."""

import io
import os
import re
from contextlib import redirect_stdout, suppress
from unittest.mock import patch

from autosparse import cli

HELP = re.compile(r"^`autosparse (\w+) ([a-z -]*--help(?:-cluster)?)`$", re.MULTILINE)
"""A paragraph that the site replaces with what the command in it prints."""
_COMMON = "With --config FILE.yaml"  # begins a paragraph that the page itself has
_COLUMNS = "129"  # From 130 columns on, groups of options are printed side by side.
_RULE = re.compile(r"^ +-{20,} *$")


def with_options(page: str) -> str:
    """Return a page with the help of each command that it names; groups that several commands have are listed once."""
    seen = dict[str, str]()
    return HELP.sub(lambda match: _markdown(match[1], match[2].split(), seen), page)


def help_of(command: str, words: list[str]) -> str:
    """Return what a command prints when it is asked for help."""
    columns = patch.dict(os.environ, COLUMNS=_COLUMNS)
    with redirect_stdout(io.StringIO()) as shown, suppress(SystemExit), columns:
        cli.start(command, words, f"autosparse {command}")
    return shown.getvalue()


def _markdown(command: str, words: list[str], seen: dict[str, str]) -> str:
    """Return help as Markdown: what the command does, its groups of options, and examples."""
    text, _, examples = help_of(command, words).partition("\nExamples:\n")
    about, *groups = re.split(r"\n (?=\w+ options|options|positional arguments|subcommands)", text)
    of_task, of_cluster = words[0] == "--task", words[-1] == "--help-cluster"
    paragraphs = [] if of_task or of_cluster else [" ".join(part.split()) for part in about.split("\n\n")[1:]]
    parts = [paragraph for paragraph in paragraphs if not paragraph.startswith(_COMMON)]
    positional = ""
    for group in groups:
        title, *lines = group.splitlines()
        title = title.strip().removesuffix("options").strip()
        options = "\n".join(_options(lines))
        if of_task and title != "Task":
            continue
        if title == "Slurm":
            parts.append("Slurm: [the options of every command](#cluster).")
        elif title == "positional arguments":
            positional = options
        elif of_task or title in ("", "subcommands"):
            parts.append("\n".join(filter(None, (positional, options))))
        elif options in seen:
            parts.append(f"{title}: [the options of {seen[options]}](#{seen[options]}).")
        else:
            seen[options] = command
            parts.append(f"{title}:\n\n{options}")
    if words == ["--help"]:
        parts.append("```sh\n" + "\n".join(line.strip() for line in examples.strip().splitlines()) + "\n```")
    return "\n\n".join(part for part in parts if part)


def _options(lines: list[str]) -> list[str]:
    """Return the options of a group of help as lines of a list, without the option that asks for help."""
    found = list[list[str]]()
    for line in lines:
        if _RULE.match(line):
            found = []  # The lines before the rule describe the group.
        elif re.match(r"^  \S", line):
            found.append(re.split(r"  +", line.strip(), maxsplit=1))
        elif line.startswith("    ") and line.strip() and found:
            found[-1].append(line.strip())
    return [f"- `{name}`: {_plain(help)}" for name, *help in found if help and not name.startswith(("-h,", "("))]


def _plain(lines: list[str]) -> str:
    return " ".join(lines).replace("<", "&lt;").replace("*", "&ast;")
