"""The experiments: what they are made of, what a dry run says of them, and a trial of them."""

import inspect
import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from autosparse.autos import AutoSCriterion, LookupTable
from autosparse.cluster import Resources, launch_graph
from autosparse.config import folder_of
from autosparse.errors import UserError
from autosparse.jobs import FitRun, IRPRun, PruneRun
from autosparse.study import paper
from autosparse.study.experiments import EXPERIMENTS, describe, find_scale, in_all, stages
from autosparse.study.paper import PLANS
from autosparse.study.parts import Comparison
from autosparse.study.scale import FULL, PAPERS, SCALES, SMALL, Scale
from tests.conftest import Capture, Patch, Script

HERE = Resources(cluster="inline")


def test_tables_and_figures_at_smoke_scale(tmp_path: Path, capsys: Capture) -> None:
    names = ("figure1", "figure4", "table1")
    scale = find_scale("all", "smoke", tmp_path)
    graph = stages(names, scale)
    launch_graph(graph, HERE, tmp_path)
    report = tmp_path / "paper" / "-".join(names)
    text = (report / "report.md").read_text()
    for name in names:
        assert f"autosparse paper {name} --scale smoke" in text
    assert "nan" not in text.lower()
    page = (report / "index.html").read_text()
    images = re.findall(r"\((figures/[^)]*)\)", text)
    assert len(re.findall(r'<(?:img|div) class="static', page)) == len(images)
    for image in images:
        assert (report / image).stat().st_size > 1000
        assert (report / image).with_suffix(".svg").is_file()
    check_numbers(text, pd.read_csv(report / "results.csv"), tmp_path / "prune")
    capsys.readouterr()
    launch_graph(graph, replace(HERE, dry_run=True), tmp_path)
    assert capsys.readouterr().err.count(", 0 to run") == len(graph)
    next(tmp_path.glob("irp/*/status.json")).touch()  # as of a run that was made anew
    launch_graph(graph, replace(HERE, dry_run=True), tmp_path)
    assert "report: 1 run, 0 complete, 1 to run" in capsys.readouterr().err
    launch_graph(stages(("table2",), scale), replace(HERE, dry_run=True), tmp_path)
    said = capsys.readouterr().err
    assert "irp: 1 run, 1 complete, 0 to run" in said  # The tables share these runs.
    assert "autos: 3 runs, 1 complete, 2 to run" in said
    assert "report: 1 run, 0 complete, 1 to run" in said


def check_numbers(text: str, rows: pd.DataFrame, runs: Path) -> None:
    """Check the table of the paper's measure and the rows of all results against the files of the runs."""
    for label, criterion, reported in (("SNIP", "snip", 53.16), ("GraSP", "grasp", 54.43), ("NPB", "npb", 56.40)):
        folder = runs / f"lenet-300-100_digits_{criterion}_90_s100"
        result = json.loads((folder / "result.json").read_text())
        best = 100 * max(epoch["test"] for epoch in result["history"])
        assert f"| {label} | {reported:.2f} → {best:.2f} ({best - reported:+.2f}) |" in text
        assert f"| {label} | {100 * result['history'][-1]['test']:.2f} |" in text
        (row,) = rows[rows["folder"] == str(folder)].to_dict("records")
        assert {key: row[key] for key in ("test", "test_best", "density", "kept")} == {
            key: result[key] for key in ("test", "test_best", "density", "kept")
        }


@pytest.mark.parametrize(
    ("name", "scale"),
    [
        *itertools.product((*PLANS, "authors"), SCALES.values()),
        *itertools.product(("pretrained", "lookahead"), (SCALES[name] for name in ("full", "small", "smoke"))),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_graph_holds_all_jobs_an_experiment_needs(name: str, scale: Scale) -> None:
    graph = stages((name,), scale)
    found = {job.folder: job for stage in graph for job in stage.jobs}
    for job in found.values():
        if isinstance(job, FitRun):
            assert all(isinstance(found[Path(run)], IRPRun) for run in job.runs)
        if isinstance(job, PruneRun) and job.learned:
            fit = found[job.saved]
            assert isinstance(fit, FitRun)
            sources = [found[Path(run)] for run in fit.runs]
            # Seeds of runs that made labels are not pruned.
            assert all(isinstance(source, IRPRun) and source.config.seed != job.config.seed for source in sources)
        assert len(job.folder.name) < 200


def test_full_scale_has_the_papers_networks() -> None:
    for pair in PAPERS:
        network, dataset = pair.replace("lenet", "lenet-300-100").split("/")
        assert (FULL.settings[pair].task.network, FULL.settings[pair].task.source) == (network, dataset)
        assert FULL.settings[pair].task.recipe_name == "paper"
    fit = FULL.fit
    assert (fit.batch_size, fit.learning_rate, fit.epochs, fit.max_steps) == (1024, 0.01, 10, 0)
    assert FULL.backbones == {"resnet18": "resnet18", "vgg19": "vgg19"}
    assert FULL.distinct(*PAPERS) == list(PAPERS)
    assert len(SMALL.distinct(*PAPERS)) == 2


def test_default_autos_or_the_last_row_has_the_sanity_checks() -> None:
    plans = ("figure3", "table2", "table4", "table6")
    checked = [part.checked for name in plans for part in PLANS[name](SMALL) if isinstance(part, Comparison)]
    assert checked == [*[("SNIP", "AutoS")] * 2, ("Param + Grad",), ("resnet18 on cifar10, resnet18",), ("LTH+SNIP",)]


@pytest.mark.parametrize("name", ["demo", "authors", *PLANS])
def test_docstring_has_the_numbers_of_the_dry_run(name: str) -> None:
    command, body = (inspect.getdoc(EXPERIMENTS[name]) or "").split("\n\n", 1)
    assert f": `autosparse {'demo' if name == 'demo' else f'paper {name}'}" in command
    assert body.startswith(f"{in_all(stages((name,), find_scale(name)))}.")


def test_description_has_one_line_per_stage_and_one_for_all() -> None:
    assert describe(stages(("table4",), FULL)) == [
        "irp: 4 jobs, 21 training runs of 100 epochs, 42 training runs of 160 epochs, 21 training runs of 300 epochs",
        "autos: 8 jobs",
        "prune: 3 jobs, 3 training runs of 160 epochs",
        "prune-autos: 81 jobs, 81 training runs of 160 epochs",
        "report: 1 job",
        "in all: 97 jobs, 168 training runs",
    ]
    assert in_all(stages(tuple(PLANS), FULL)) in " ".join((paper.__doc__ or "").split())


def test_jobs_of_the_demo_share_the_cores(script: Script, tmp_path: Path, monkeypatch: Patch, capsys: Capture) -> None:
    monkeypatch.setattr("autosparse.cluster.resources.slurm_answers", lambda: False)
    demo = ("demo", "--scale", "smoke", "--output", str(tmp_path), "--dry-run")
    assert script(*demo) == 0
    assert capsys.readouterr().err.count(" to run (local") == 5
    assert script(*demo, "--runs-at-once", "1", "--cpus-per-task", "2") == 0
    assert capsys.readouterr().err.count(" to run (local") == 5
    assert script(*demo, "--cluster", "inline") == 0
    assert capsys.readouterr().err.count(" to run (inline") == 5


def test_authors_experiment_at_smoke_scale(tmp_path: Path) -> None:
    launch_graph(stages(("authors",), find_scale("authors", "smoke", tmp_path)), HERE, tmp_path)
    text = (tmp_path / "paper" / "authors" / "report.md").read_text()
    assert "nan" not in text.lower()
    for network in ("lenet-300-100 on digits", "lenet-300-100-torch on digits"):
        assert f"### The authors' protocol: {network}\n" in text
    assert text.count("| AutoS, the authors' protocol |") >= 2
    (theirs,) = (tmp_path / "irp").glob("lenet-300-100-torch_*_rewind-weights_prune-first_s0")
    assert (theirs / "carried-1.safetensors").is_file()


@pytest.mark.parametrize(
    ("name", "features"), [("pretrained", ("theta", "grad", "flow")), ("lookahead", ("theta", "probe-theta"))]
)
def test_built_in_criterion_is_made_at_smoke_scale(name: str, features: tuple[str, ...], tmp_path: Path) -> None:
    launch_graph(stages((name,), find_scale(name, "smoke", tmp_path)), HERE, tmp_path)
    report = tmp_path / "paper" / name
    text = (report / "report.md").read_text()
    assert f"autosparse paper {name} --scale smoke" in text
    assert "| lenet-300-100_digits_magnitude_n2" in text
    assert re.search(r"kept by network and lookup table alike, % \| \d+\.\d\d \|", text)
    table = LookupTable.load(report / name)
    assert (table.rounds, table.features.names) == (2, features)
    assert torch.equal(table.values, LookupTable.load(tmp_path / name / "autos" / name).values)
    assert str(tmp_path) not in (report / name / "autos.json").read_text()
    assert AutoSCriterion.load(report / name).number_of_rounds == 2


@pytest.mark.parametrize("name", ["pretrained", "lookahead"])
def test_labels_of_the_built_in_criterion_are_those_of_its_card(name: str, tmp_path: Path) -> None:
    graph = {stage.name: stage.jobs for stage in stages((name,), find_scale(name, "small", tmp_path))}
    assert [*graph] == ["irp", "autos", "report"]
    (fit,) = graph["autos"]
    assert isinstance(fit, FitRun)
    card = json.loads((folder_of(name) / "autos.json").read_text())["card"]
    assert [Path(run).name for run in fit.runs] == [metrics["run"] for metrics in card["held_out"]]
    names = ("label", "epochs", "max_steps", "batch_size", "learning_rate", "anneal", "resolution", "rounds")
    assert {name: getattr(fit.config, name) for name in names} == {name: card["fit"][name] for name in names}


def test_narrow_scale_of_lookahead_raises() -> None:
    assert find_scale("figure6", "narrow").settings["vgg16/cifar10"].task.network == "vgg7"
    with pytest.raises(UserError, match="unknown scale 'narrow'; valid: full, small, smoke"):
        find_scale("lookahead", "narrow")
