"""Every command line in the documents and in help is one that its command takes; nothing is run."""

import functools
import io
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

import pytest

from autosparse import cli
from autosparse.command import parse
from tests.conftest import ROOT, Patch, forget_files
from tests.docs.test_blocks import files_of

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "slurm/README.md", "examples/README.md")]
PAGES += [*sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").glob("*.py"))]
EACH = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
SHELL = re.compile(r"^```(?:sh|bash)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")  # code within a sentence, on two lines at most
FLAG = re.compile(r"--[a-z][a-z-]*")
SUBCOMMANDS = {
    "board": ("run", "show"),
    "runs": ("status", "logs", "cancel", "resume"),
    "store": ("info", "verify", "export"),
}


def shell(line: str) -> Iterator[list[str]]:
    """The words of each command of a line of shell."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words = list[str]()
    for word in lexer:
        if re.fullmatch(r"[&|;()<>]+", word):
            yield words
            words = []
        else:
            words.append(word)
    yield words


def call(words: Sequence[str]) -> tuple[str, list[str]] | None:
    """The module of `autosparse.cli` that a command of shell calls, and its arguments."""
    for k, word in enumerate(words):
        rest = [*words[k + 1 :]]
        if script := re.search(r"(?:^|/)launch/(\w+)\.py$", word):
            return script[1], rest
        if word == "autosparse.store":
            return "store", rest
        if re.search(r"(?:^|/)autosparse$", word) and rest and rest[0][:2] != "--" and words[0] != "cd":
            assert rest[0] in cli.COMMANDS, f"autosparse {rest[0]} is no command"
            return rest[0], rest[1:]
    return None


def lines(text: str) -> Iterator[str]:
    """The lines of the blocks of shell, and what begins with python within a sentence."""
    for block in SHELL.findall(text):
        yield from block.replace("\\\n", " ").splitlines()
    yield from (span for span in SPAN.findall(text) if span.startswith("python "))


@functools.cache
def flags(module: str, *words: str) -> frozenset[str]:
    """The options that a command's help names."""
    with redirect_stdout(io.StringIO()) as shown:
        for wanted in ("--help", "--help-cluster"):
            with suppress(SystemExit):
                cli.start(module, [*words, wanted])
    return frozenset(FLAG.findall(shown.getvalue()))


def every_flag() -> set[str]:
    """Those of all commands, of the task `text` too."""
    helps = [("irp", "--task", "text"), *((name,) for name in cli.COMMANDS)]
    helps += [(module, name) for module, names in SUBCOMMANDS.items() for name in names]
    return {"--help-cluster"}.union(*(flags(*each) for each in helps))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: Patch) -> None:
    """An empty folder but for the examples, and wide lines of help."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "examples").symlink_to(ROOT / "examples")


def parsed(module: str, args: Sequence[str]) -> bool:
    """Whether a command takes its arguments; one that asks for help does."""
    try:
        cli.start(module, args)
    except SystemExit as stop:
        return not stop.code
    return True


def only_parse(kind: type[Any], main: Callable[..., None], args: Sequence[str], prog: str | None = None) -> None:
    parse(kind, args, prog)


@EACH
def test_command_lines_are_taken(page: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(cli, "run", only_parse)
    text = page.read_text(encoding="utf-8")
    for name, block in files_of(page).items():  # one process has one module of a name
        text = text.replace(name, f"{page.stem}_of_commands_{name}")
        Path(f"{page.stem}_of_commands_{name}").write_text(block)
    for line in lines(text):
        for words in shell(line):
            if found := call(words):
                assert parsed(*found), line


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_ends_with_commands_that_are_taken(name: str, monkeypatch: Patch) -> None:
    monkeypatch.setattr(cli, "run", only_parse)
    with redirect_stdout(io.StringIO()) as shown, suppress(SystemExit):
        cli.start(name, ["--help"])
    examples = shown.getvalue().partition("\nExamples:\n")[2].splitlines()
    assert 2 <= len(examples) <= 3
    forget_files()  # One process has one module of a name.
    Path("mine.py").write_text(files_of(ROOT / "docs" / "tasks.md")["mine.py"])
    for line in examples:
        assert line.startswith(f"  autosparse {name}")
        assert parsed(name, line.split()[2:]), line


@EACH
def test_options_within_sentences_are_there(page: Path) -> None:
    text = SHELL.sub("", page.read_text(encoding="utf-8"))
    for span in SPAN.findall(text):
        if span.startswith("--"):
            assert {*FLAG.findall(span)} <= every_flag(), span
        elif not span.startswith("python ") and (found := call(span.split())):
            module, words = found
            known = flags(module, *(words[:1] if module in SUBCOMMANDS else ()))
            assert {*FLAG.findall(span)} <= known, span
