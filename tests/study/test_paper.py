"""The paper's experiments: every one of them at the scale of a trial, and what they are made of."""

import re
from pathlib import Path

import pytest
import torch

from autosparse.autos import AutoSCriterion, Surface
from autosparse.cluster import Resources, launch_graph
from autosparse.jobs import FitRun, IRPRun, PruneRun
from autosparse.study.accuracies import Accuracies
from autosparse.study.paper import stages
from autosparse.study.plans import PLANS
from autosparse.study.scale import FULL, PAPERS, SCALES, SMALL


def test_every_table_and_figure_at_the_scale_of_a_trial(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = stages(tuple(PLANS), "smoke", tmp_path)
    launch_graph(graph, Resources(cluster="inline"), tmp_path)
    report = tmp_path / "paper" / "all"
    text = (report / "report.md").read_text()
    for name in PLANS:
        assert f"python launch/paper.py {name} --scale smoke" in text
    for row in ("GraSP & GraSP", "20+40+100, log-density", "batch 4096, learning rate 0.0005", "Param + Grad", "NPB"):
        assert f"| {row} |" in text
    assert re.search(r"\| SNIP \| 53\.16 → \d+\.\d\d \([+-]\d+\.\d\d\) \|", text)
    assert "nan" not in text.lower()
    page = (report / "index.html").read_text()
    for image in re.findall(r"\((figures/[^)]*)\)", text):
        assert (report / image).stat().st_size > 1000
        assert (report / image).with_suffix(".svg").is_file()
        assert image in page
    capsys.readouterr()
    launch_graph(stages(("table2",), "smoke", tmp_path), Resources(cluster="inline"), tmp_path)
    assert "report: 1 runs, 0 complete, 1 to run" in (said := capsys.readouterr().err)
    assert said.count(", 0 to run") == 4  # what the tables share is there


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", PLANS)
def test_what_a_plan_needs_is_in_its_graph(name: str, scale: str, tmp_path: Path) -> None:
    found = {job.folder: job for part in PLANS[name](SCALES[scale]) for job in part.jobs()}
    for job in found.values():
        if isinstance(job, FitRun):
            assert all(isinstance(found[Path(run)], IRPRun) for run in job.runs)
        if isinstance(job, PruneRun) and job.learned:
            assert isinstance(found[Path(job.criterion)], FitRun)
            # seeds that made labels are not pruned
            fit = found[Path(job.criterion)]
            assert isinstance(fit, FitRun)
            sources = [found[Path(run)] for run in fit.runs]
            assert all(isinstance(source, IRPRun) and source.seed != job.seed for source in sources)
        assert len(job.folder.name) < 200


def test_full_scale_is_the_papers() -> None:
    for pair in PAPERS:
        network, dataset = pair.replace("lenet", "lenet-300-100").split("/")
        assert (FULL.settings[pair].network, FULL.settings[pair].dataset) == (network, dataset)
        assert FULL.settings[pair].recipe == "paper"
    fit = FULL.fit
    assert (fit.batch_size, fit.learning_rate, fit.epochs, fit.max_steps) == (1024, 0.01, 10, 0)
    assert FULL.backbones == {"resnet18": "resnet18", "vgg19": "vgg19"}
    assert FULL.distinct(*PAPERS) == list(PAPERS)
    assert len(SMALL.distinct(*PAPERS)) == 2


def test_the_sanity_checks_are_those_of_the_default() -> None:
    checked = {}
    for name, plan in PLANS.items():
        for part in plan(FULL):
            if isinstance(part, Accuracies):
                checked[name] = part.checked
    assert checked == {
        "figure3": ("SNIP", "AutoS"),
        "figure6": (),
        "table1": ("AutoS",),
        "table2": ("Param + Grad",),
        "table3": ("SNIP-iter",),
        "table4": ("resnet18 on cifar10, resnet18",),
        "table5": ("20-iter",),
        "table6": ("LTH+SNIP",),
        "table8": ("batch 1024, learning rate 0.01",),
    }


def test_the_pretrained_criterion_is_made_at_the_scale_of_a_trial(tmp_path: Path) -> None:
    launch_graph(stages(("pretrained",), "smoke", tmp_path), Resources(cluster="inline"), tmp_path)
    report = tmp_path / "paper" / "pretrained"
    text = (report / "report.md").read_text()
    for row in ("dataflow", "AutoS, the paper's", "AutoS, pretrained", "iterative, magnitude"):
        assert f"| {row} |" in text
    assert "python launch/paper.py pretrained --scale smoke" in text
    assert re.search(r"kept by network and surface alike, % \| \d+\.\d\d \|", text)
    surface = Surface.load(report / "pretrained")
    assert (surface.rounds, surface.features.inputs) == (2, "both+flow")
    fitted = Surface.load(tmp_path / "pretrained" / "autos" / "pretrained")
    assert torch.equal(surface.table, fitted.table)
    card = (report / "pretrained" / "autos.json").read_text()
    assert str(tmp_path) not in card
    assert AutoSCriterion.load(report / "pretrained").autos is None  # the surface alone
