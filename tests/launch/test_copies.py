"""The user's files as they were when the command was given are what jobs run."""

from pathlib import Path

import pytest
import yaml
from submitit.core.utils import DelayedSubmission

from tests.commands import Commands
from tests.conftest import Capture, Patch, Script, forget_files

TASK = """
from dataclasses import dataclass
from tests.tasks.own import Own

@dataclass(frozen=True, kw_only=True)
class Mine(Own):
    pass
"""
CRITERION = """
def mine(model, mask, scoring):
    return mask.layout.flatten(mask.layout.weights(model))
"""
NETWORK = """
from torch import nn

def mine(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
"""
DIGITS = ("--dataset", "digits", "--epochs", "1")
FILES = {
    "task": (TASK, ("--task", "mine.py:Mine", "--criteria", "magnitude")),
    "criterion": (CRITERION, (*DIGITS, "--criteria", "mine.py:mine")),
    "network": (NETWORK, (*DIGITS, "--network", "mine.py:mine", "--criteria", "magnitude")),
}
COMMAND = ("prune", "--sparsities", "0.5", "--seeds", "1", "--cluster", "slurm")


@pytest.mark.parametrize("kind", FILES)
def test_file_edited_while_its_job_waits_runs_as_it_was(
    kind: str, script: Script, commands: Commands, tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    (text, options), file = FILES[kind], tmp_path / "mine.py"
    file.write_text(text)
    assert script(*COMMAND, *options) == 0
    file.write_text("1 / 0")
    forget_files()
    DelayedSubmission.load(next(tmp_path.glob("runs/submitted/*/4242/*_submitted.pkl"))).function()
    (run,) = tmp_path.glob("runs/prune/*")
    assert (run / "mine.py").read_text() == text
    assert yaml.safe_load((run / "config.yaml").read_text())["files"] == {"mine.py": str(file)}
    file.write_text(text)
    assert script(*COMMAND, *options) == 0
    assert "1 complete, 0 to run" in capsys.readouterr().err
    file.write_text(f"{text}# edited")
    assert script(*COMMAND, *options) == 2
    assert f"{run.name} is a run with another file of the {kind}, of which a copy is in its" in capsys.readouterr().err


def test_job_that_waits_with_another_configuration_is_named(
    script: Script, commands: Commands, tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    command = (*COMMAND, *FILES["criterion"][1])
    (tmp_path / "mine.py").write_text(CRITERION)
    assert script(*command) == 0
    commands.answer("squeue", "echo '4242|PENDING|Priority'")
    assert script(*command) == 0
    assert "1 of them in the queue already: 4242" in capsys.readouterr().err
    assert script(*command, "--epochs", "2") == 2
    error = capsys.readouterr().err
    assert "_s1 is a run with epochs = 1, asked for is 2; choose another output" in error
    assert "; job 4242 works on it: autosparse runs cancel runs/prune/lenet-300-100_digits_mine_50_s1\n" in error
    (tmp_path / "mine.py").write_text(f"{CRITERION}# edited")
    assert script(*command) == 2
    assert "_s1 is a run with another file of the criterion" in capsys.readouterr().err
    assert len(commands.calls("sbatch")) == 1
