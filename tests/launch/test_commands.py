"""`autosparse`: the same commands as launch/*.py, without a clone."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import autosparse
from autosparse import cli
from autosparse.criteria.table import TABLE
from tests.conftest import ROOT, Capture, Patch

TITLES = ("options", "arguments", "subcommands")
GROUPS = ("options", "Run options", "Training options", "Task options", "Method options", "Slurm options")


def called(monkeypatch: Patch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["autosparse", *arguments])
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_no_command_prints_one_screen_and_a_typo_the_nearest(monkeypatch: Patch, capsys: Capture) -> None:
    assert called(monkeypatch) == 0
    screen = capsys.readouterr().out
    assert screen.count("\n") < 24
    assert all(f"  {name} " in screen for name in cli.COMMANDS)
    assert called(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"{autosparse.__version__}\n"
    assert called(monkeypatch, "prun") == 2
    assert capsys.readouterr().err.startswith(
        "error: unknown command 'prun'; did you mean prune? valid: demo, irp, fit"
    )


@pytest.mark.parametrize("words", [*cli.COMMANDS, "runs status", "runs logs", "irp --task text", "fit --help-cluster"])
def test_help_is_a_paragraph_per_option_and_ends_in_its_default(
    words: str, monkeypatch: Patch, capsys: Capture
) -> None:
    monkeypatch.setenv("COLUMNS", "5000")
    assert called(monkeypatch, *words.split(), "--help") == 0
    shown = capsys.readouterr().out
    assert f"usage: autosparse {words.split()[0]} " in shown
    assert not [odd for odd in ("(default", "not given", "Default: None", " {} ") if odd in shown]
    shown, _, _ = shown.partition("\nExamples:\n")
    cells = [cell for line in shown.splitlines()[1:] for cell in re.split(r"\s{2,}", line.strip())]
    texts = [cell for cell in cells if " " in cell and cell[0] not in "-[{•" and cell.split()[-1] not in TITLES]
    assert texts
    ended = (".", "(required)", "message and exit")
    assert [text for text in texts if not text.endswith(ended) and len(text) < 120] == []  # a line of code is shorter


def test_help_has_titles_and_values_that_a_person_reads(monkeypatch: Patch, capsys: Capture) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert called(monkeypatch, "prune", "--help") == 0
    shown = capsys.readouterr().out
    assert tuple(re.findall(r"^[ ╭─]*((?:\w+ )?options)[ ─╮]*$", shown, re.MULTILINE)) == GROUPS
    assert not [odd for odd in ("{None}", "job.", "Default: False", "[INT") if odd in shown]
    assert all(row.name in shown for row in TABLE)
    assert max(map(len, shown.partition("\nExamples:\n")[0].splitlines())) <= 80
    assert re.search(r"--epochs INT .*Epochs of each training", shown)


def test_shell_completes_commands_options_and_values(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from autosparse.cli import main; main()", "--tyro-print-completion", "bash"],
        capture_output=True,
        check=True,
    )
    (tmp_path / "script").write_bytes(done.stdout)
    ask = f"source {tmp_path}/script"
    for line in ("''", "irp --epo", "irp --schedule ''"):
        ask += f"; COMP_WORDS=(autosparse {line}); COMP_CWORD={len(line.split())}; _tyro_autosparse"
        ask += '; echo "${COMPREPLY[@]}"'
    shown = subprocess.run(["bash", "-c", ask], capture_output=True, text=True).stdout.splitlines()
    for words, expected in zip(shown, ("demo", "--epochs", "geometric"), strict=True):
        assert expected in words.split()


def test_each_launch_script_is_a_command(monkeypatch: Patch) -> None:
    modules = {*cli.COMMANDS} - {"store"}
    assert {path.stem for path in (ROOT / "launch").glob("*.py")} == modules
    for module in modules:
        script = str(ROOT / "launch" / f"{module}.py")
        monkeypatch.setattr(sys, "argv", [script, "--no-such-option"])
        with pytest.raises(SystemExit, match="2"):
            runpy.run_path(script, run_name="__main__")
