"""Each error and warning of the FAQ is what the package prints for the block above it."""

import re
import shlex
import warnings
from pathlib import Path

import pytest

import autosparse
from tests.conftest import ROOT, Capture, Patch, Script
from tests.docs.test_blocks import files_of, given

PAGE = ROOT / "docs" / "faq.md"
LINES = r"((?:(?!```).*\n)*)"
SHOWN = re.compile(rf"^```(python|sh)\n{LINES}```\n\n```text\n{LINES}```", re.MULTILINE)
BLOCKS = SHOWN.findall(PAGE.read_text(encoding="utf-8"))


def words(text: str) -> str:
    """Text without its line breaks."""
    return " ".join(text.split())


def of(language: str) -> pytest.MarkDecorator:
    """Parametrization by the blocks of a language and the messages below them."""
    blocks = [block[1:] for block in BLOCKS if block[0] == language]
    names = [message.partition("\n")[0][:40] for _, message in blocks]
    return pytest.mark.parametrize(("code", "message"), blocks, ids=names)


@of("python")
def test_block_raises_or_warns_as_shown(code: str, message: str) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        namespace = given() | {"autosparse": autosparse}
        try:
            exec(code, namespace)
        except autosparse.UserError as error:
            said = [f"UserError: {words(str(error))}"]
        else:
            said = [f"UserWarning: {words(str(warning.message))}" for warning in caught]
    assert words(message) in said


@of("sh")
def test_command_fails_as_shown(
    code: str, message: str, script: Script, tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in files_of(PAGE).items():
        Path(name).write_text(text)
    codes = [script(*shlex.split(line)[1:], "--cluster", "inline") for line in code.splitlines()]
    assert codes[-1] == 2
    assert not any(codes[:-1])
    assert words(message) in words(capsys.readouterr().err)


def test_every_answer_with_a_message_is_tested() -> None:
    assert len(BLOCKS) == PAGE.read_text(encoding="utf-8").count("```text") - 2  # memory and GPUs are the machine's
