"""The launch scripts as a user calls them: the whole pipeline, and every mistake in one line."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from autosparse.pruning import Mask
from autosparse.study import load
from tests.commands import Commands
from tests.conftest import ROOT, RUN, SMALL_IRP, Capture, Patch, Script


def test_irp_fit_prune_and_report_work_on_one_output_folder(
    script: Script, finished: Path, tmp_path: Path, capsys: Capture
) -> None:
    def said() -> tuple[list[str], str]:
        printed = capsys.readouterr()
        return printed.out.splitlines(), printed.err.splitlines()[-1]

    assert script("irp", *SMALL_IRP, "--output", finished) == 0
    (run,), last = said()
    assert Path(run) == finished / "irp" / RUN
    assert last == f"next: autosparse fit --runs {run}"
    for name in ("config.yaml", "initial.safetensors", "history.json", "environment.json", "logs/rank0.log"):
        assert (Path(run) / name).is_file()

    fit = ["--epochs", "1", "--resolution", "16", "--name", "small"]
    assert script("fit", "--runs", run, *fit, "--output", tmp_path) == 0
    (autos,), last = said()
    assert autos == str(tmp_path / "autos" / "small")
    assert last == f"next: autosparse prune --criteria {autos} snip --dataset digits"

    prune = ["prune", "--dataset", "digits", "--epochs", "2", "--seeds", "0", "7", "--output", tmp_path]
    prune += ["--criteria", "random", "snip", autos, "--sparsities", "0.9", "0.95"]
    assert script(*prune) == 0
    folders, last = said()
    assert len(folders) == 12
    assert last == f"next: autosparse report {tmp_path} --output report"
    assert script(*prune, "--dry-run") == 0
    assert "next" not in capsys.readouterr().err
    frame = load(tmp_path)
    assert len(frame) == 12
    assert set(frame["criterion"]) == {"random", "snip", "autos-small", "autos-small (same init)"}
    assert set(frame[frame["same_initialization"]]["seed"]) == {0}
    for row in frame.itertuples():
        assert row.kept == round((1 - row.sparsity) * row.parameters)
        assert Mask.load(Path(row.folder) / "mask.safetensors").count == row.kept
    masks = {row.criterion: row.layer_densities for row in frame[frame["sparsity"] == 0.95].itertuples()}
    assert len({json.dumps(densities) for densities in masks.values()}) == 4
    assert frame["test"].between(0.05, 1).all()

    assert script("report", run, autos, tmp_path, "--output", tmp_path / "report") == 0
    page = Path(capsys.readouterr().out.strip())
    text = page.read_text()
    assert "autos-small (same init)" in text
    assert "irp-snip (iterative)" in text
    with open(page.parent / "results.csv") as file:
        assert len(list(csv.DictReader(file))) == 12 + 5
    tables = (page.parent / "report.md").read_text()
    assert tables.count("\n| snip |") == 3  # a row a measure; the runs come below, by their names
    figures = {path.name for path in (page.parent / "figures").iterdir()}
    drawn = ("accuracy", "cost", "layers", "trainings")
    stems = {*(f"lenet-300-100_digits_{what}" for what in drawn), "autos_small_map", "autos_small_truth"}
    assert figures == {f"{stem}.{end}" for stem in stems for end in ("svg", "png")}
    for name in figures:
        assert (page.parent / "figures" / name).stat().st_size > 1000
    assert len(re.findall(r'<(?:img|div) class="static', text)) == len(stems)

    os.umask(umask := os.umask(0))  # whom it lets read may read what a shared folder holds
    modes = {path.stat().st_mode & 0o777 for path in (*finished.rglob("*"), *tmp_path.rglob("*")) if path.is_file()}
    assert modes == {0o666 & ~umask}


def test_fit_no_better_than_a_constant_says_what_to_change(
    script: Script, irp_run: Path, tmp_path: Path, capsys: Capture
) -> None:
    fit = ("--runs", irp_run, "--max-steps", "1", "--learning-rate", "1e-9", "--resolution", "16")
    assert script("fit", *fit, "--output", tmp_path, "--cluster", "inline") == 0
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"the fit is no better than a constant on {irp_run}: fit for more --epochs")


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("irp", ["--network", "alexnet"], "unknown network 'alexnet'; valid: lenet-300-100, lenet-500-300, resnet8"),
        ("irp", ["--dataset", "svhn"], "unknown data set 'svhn'; valid: digits, mnist5k"),
        ("irp", ["--dataset", "cifar10", "--data-root", "/none"], "get it with: autosparse data"),
        ("prune", ["--criteria", "snip,random"], "several are given with spaces between them, no commas"),
        ("irp", ["--output", "/proc/nope"], "output /proc/nope: /proc takes no files (No such file or "),
        ("irp", ["--cluster", "slurm", "--dry-run", "--log-dir", "/dev/null/x"], "log-dir /dev/null/x: /dev/null"),
        ("irp", ["--validation", "1"], "the validation fraction must lie in [0, 1), got 1.0"),
        ("irp", ["--network", "vgg16"], "vgg16 halves its images 5 times and needs 32 x 32"),
        ("irp", ["--seeds"], "nothing to run"),
        ("irp", ["--iterations", "0"], "error: iterations must be at least 1, got 0"),
        ("prune", ["--gpus-per-node", "-1"], "error: gpus per node must be at least 0, got -1"),
        ("irp", ["--rewind-epoch", "31"], "rewind epoch must lie in 0..30, the epochs of a training run, got 31"),
        ("fit", ["--runs", "/none"], "cannot fit to /none: it does not exist; name the folder of a complete run of"),
        ("fit", ["--runs"], "no runs to fit to"),
        ("fit", ["--runs", "run", "--name", "../x"], "name must name one folder in runs/autos, not a path, got ../x"),
        ("fit", ["--runs", "run", "--name", ".."], "not a path, got .."),
        ("prune", ["--sparsities", "0.9", "1.5"], "sparsity must lie between 0 and 1"),
        ("prune", ["--criteria", "/none/autos"], "no saved AutoS in /none/autos"),
        ("prune", ["--rounds", "3"], "rounds are for a saved AutoS and for lookahead, short-irp, snip-probe, ticket, "),
        ("prune", ["--criteria", "autos"], "unknown criterion 'autos'; valid: pretrained, lookahead, random, "),
        ("report", ["/none"], "no runs at /none"),
        ("report", [], "which runs?"),
        ("paper", ["figure99"], "unknown experiment 'figure99'; did you mean figure6? valid: figure1"),
        ("data", ["--dataset", "svhn"], "unknown data set 'svhn'"),
    ],
)
def test_mistake_is_one_line_and_leaves_no_files(
    name: str, arguments: list[str], message: str, script: Script, tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert script(name, *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("irp", ["--criteria", "synflow"], "Expected one of ('random', 'magnitude', 'snip', 'grasp')"),
        ("irp", ["--epoch", "3"], "Perhaps you meant: --epochs"),
        ("irp", ["--epochs", "many"], "Error parsing --epochs"),
        ("fit", [], "--runs"),
    ],
)
def test_unknown_option_or_value_is_refused_with_valid_ones(
    name: str, arguments: list[str], message: str, script: Script, capsys: Capture
) -> None:
    assert script(name, *arguments) == 2
    error = capsys.readouterr().err
    assert message in " ".join(word.strip("│╭╮╰╯─") for word in error.split() if word.strip("│╭╮╰╯─"))
    assert "Traceback" not in error


@pytest.mark.parametrize("arguments", [["--help"], ["--network", "alexnet"]])
def test_arguments_are_checked_without_slow_imports(arguments: list[str]) -> None:
    command = [sys.executable, "-X", "importtime", ROOT / "launch" / "irp.py", *arguments]
    imported = subprocess.run(command, capture_output=True, text=True).stderr
    assert "| tyro" in imported
    slow = ("torch", "zarr", "vl_convert", "pandas", "accelerate")
    assert not [name for name in slow if re.search(rf"\| +{name}$", imported, re.MULTILINE)]


def test_sparsity_0_is_one_dense_run_per_seed(script: Script, capsys: Capture) -> None:
    what = ("--criteria", "snip", "lookahead", "gmp", "/none/autos", "--rounds", "3", "--sanity", "none", "shuffled")
    assert script("prune", *what, "--sparsities", "0", "--seeds", "5", "6", "--dry-run", "--cluster", "inline") == 0
    shown = capsys.readouterr().out.split()
    assert shown == [f"runs/prune/lenet-300-100_mnist5k_dense_0_s{seed}" for seed in (5, 6)]
    snip = [*what[:2], "--sparsities", "0", "0.9", "--trainings", "2", "--seeds", "5"]
    assert script("prune", *snip, "--dry-run", "--cluster", "inline") == 0
    named = [Path(line).name for line in capsys.readouterr().out.split()]
    assert named == [f"lenet-300-100_mnist5k_{name}_s5" for name in ("dense-x2_0", "snip-x2_90")]


def test_help_leaves_cluster_options_to_help_cluster(script: Script, capsys: Capture) -> None:
    assert script("irp", "--help") == 0
    folded = set(re.findall(r"--[a-z][a-z-]* ", capsys.readouterr().out))
    assert len(folded) <= 44
    assert script("irp", "--help-cluster") == 0
    cluster = set(re.findall(r"--[a-z][a-z-]* ", capsys.readouterr().out))
    assert {"--partition ", "--cluster "} <= folded & cluster
    assert {"--mem ", "--qos ", "--array-parallelism "} <= cluster - folded


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("irp", ["--dataset", "mnist"]),
        ("prune", ["--dataset", "mnist", "--seeds", "1", "--sparsities", "0.9"]),
        ("paper", ["table2", "--scale", "small"]),
        ("irp", ["--task", "text", "--text", "/none.txt"]),
    ],
)
def test_dry_run_and_submission_need_no_data(
    name: str,
    arguments: list[str],
    script: Script,
    commands: Commands,
    tmp_path: Path,
    monkeypatch: Patch,
    capsys: Capture,
) -> None:
    monkeypatch.setenv("AUTOSPARSE_DATA", str(tmp_path / "data"))
    output = ["--output", tmp_path / "out"]
    assert script(name, *arguments, *output, "--dry-run", "--cluster", "inline") == 0
    said = capsys.readouterr()
    assert "; the machines that run the jobs need it" in said.err
    assert name != "paper" or "in all: 44 jobs, 50 training runs" in said.out
    assert list(tmp_path.iterdir()) == []
    assert script(name, *arguments, *output, "--cluster", "slurm") == 0
    assert "submitted as 4242" in capsys.readouterr().err
    assert script(name, *arguments, *output, "--cluster", "inline") == 2  # here it is this machine that does


def test_complete_run_is_recognized_without_its_data(
    script: Script, finished: Path, tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    shutil.copytree(finished / "irp" / RUN, tmp_path / "irp" / RUN)
    monkeypatch.setattr("autosparse.tasks.arrays.absent", lambda name, root=None: "it is elsewhere")
    assert script("irp", *SMALL_IRP, "--output", tmp_path) == 0
    assert "1 complete, 0 to run" in capsys.readouterr().err
    assert script("irp", *SMALL_IRP[:-1], "3", "--output", tmp_path) == 2  # a difference is seen all the same
    assert "is a run with epochs = 2, asked for is 3" in capsys.readouterr().err


def test_nan_loss_fails_with_its_iteration(script: Script, tmp_path: Path, capsys: Capture) -> None:
    assert script("irp", *SMALL_IRP, "--learning-rate", "1e30", "--output", tmp_path) == 2
    error = capsys.readouterr().err
    assert "iteration 0: the loss is nan in epoch 1" in error
    assert "Traceback" not in error
    assert json.loads((tmp_path / "irp" / RUN / "status.json").read_text())["state"] == "failed"


def test_different_criterion_of_the_same_name_is_refused(
    script: Script, irp_run: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "out"
    prune = ["--dataset", "digits", "--epochs", "1", "--sparsities", "0.9", "--seeds", "7", "--output", out]
    for place, seed in (("one", 0), ("two", 1)):
        fit = ["--runs", irp_run, "--epochs", "1", "--samples", "4096", "--resolution", "8", "--name", "x"]
        assert script("fit", *fit, "--seed", seed, "--output", tmp_path / place) == 0
    assert script("prune", "--criteria", tmp_path / "one/autos/x", *prune) == 0
    assert script("prune", "--criteria", tmp_path / "two/autos/x", *prune) == 2
    assert "is a run with autos = " in capsys.readouterr().err
    (result,) = (out / "prune").glob("*/result.json")
    mask = (result.parent / "mask.safetensors").read_bytes()
    result.write_text("{}")  # damaged: as good as not there
    assert script("prune", "--criteria", tmp_path / "one/autos/x", *prune) == 0
    assert json.loads(result.read_text())["kept"] == 5020
    assert (result.parent / "mask.safetensors").read_bytes() == mask


def test_runs_that_a_fit_cannot_use_are_refused(script: Script, irp_run: Path, tmp_path: Path, capsys: Capture) -> None:
    assert script("fit", "--runs", tmp_path) == 2
    assert f"no triple store at {tmp_path}; name the folder of a run of autosparse irp" in capsys.readouterr().err
    assert script("fit", "--runs", irp_run.parent) == 2
    assert f"is a folder of runs, not a run; name them: {irp_run}" in capsys.readouterr().err
    shutil.copytree(irp_run, tmp_path / "run")
    (tmp_path / "run" / "triples.zarr" / "complete").unlink()
    assert script("fit", "--runs", tmp_path / "run", "--output", tmp_path) == 2
    assert "is not finished (4 of 4 iterations); run the same IRP again" in capsys.readouterr().err


def test_leave_one_out_reports_metrics_of_each_run(script: Script, irp_run: Path, tmp_path: Path) -> None:
    shutil.copytree(irp_run, tmp_path / "second")
    fit = ["--epochs", "1", "--samples", "4096", "--leave-one-out", "--resolution", "8", "--name", "both"]
    fit += ["--output", tmp_path]
    assert script("fit", "--runs", irp_run, tmp_path / "second", *fit) == 0
    card = json.loads((tmp_path / "autos" / "both" / "autos.json").read_text())["card"]
    assert [row["run"] for row in card["leave_one_out"]] == [str(irp_run), str(tmp_path / "second")]
    assert [row["samples"] for row in card["leave_one_out"]] == [50200, 50200]
    assert [row["samples"] for row in card["held_out"]] == [5020, 5020]
    assert card["leave_one_out"][0]["mse"] == card["leave_one_out"][1]["mse"]  # the runs are alike here
    assert script("fit", "--runs", irp_run, *fit) == 2  # one run leaves no others
