"""What a graph costs, against what is counted by hand, and the figures that the plans' docstrings give."""

import inspect
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from autosparse.autos import FitConfig
from autosparse.cluster import Stage
from autosparse.data import load, sources
from autosparse.data.extent import Extent, extent
from autosparse.jobs import FitRun, IRPRun, PruneRun
from autosparse.jobs.setting import Setting
from autosparse.networks import NETWORKS
from autosparse.study import cost, plans
from autosparse.study.paper import stages
from autosparse.study.plans import PLANS

OUT = Path("runs")
LENET = 2 * (784 * 300 + 300 * 100 + 100 * 10)  # FLOPs of a forward pass
MLP = 2 * (2 * 16 + 16 * 64 + 64 * 1024 + 1024 * 1024 + 1024 * 64 + 64)
MNIST = Setting(dataset="mnist", epochs=3)


def of(*jobs: IRPRun | PruneRun | FitRun, labels: tuple[IRPRun, ...] = ()) -> float:
    return cost.flops(jobs, [Stage("irp", labels)])


def test_flops_of_a_forward_pass() -> None:
    with torch.device("meta"):
        lenet = NETWORKS["lenet-300-100"]((1, 28, 28), 10)
        resnet = NETWORKS["resnet18"]((3, 32, 32), 10).train()
    assert cost.forward_flops(lenet, (1, 28, 28)) == LENET
    assert cost.forward_flops(resnet, (3, 32, 32)) == pytest.approx(2 * 0.56e9, rel=0.01)
    assert resnet.training
    with torch.device("meta"):
        grouped = nn.Conv2d(8, 16, 3, groups=4, padding=1)
    assert cost.forward_flops(grouped, (8, 5, 5)) == 2 * 25 * 16 * 2 * 9


def test_trainings_by_hand() -> None:
    epoch = 3 * LENET * 54_000  # a tenth is held out to validate
    assert of(PruneRun(OUT, MNIST)) == 3 * epoch
    assert of(PruneRun(OUT, MNIST, criterion="synflow")) == 3 * epoch  # its rounds look at one sample
    assert of(PruneRun(OUT, MNIST, criterion="force")) == (3 + 60) * epoch
    assert of(IRPRun(OUT, MNIST, iterations=4)) == 5 * 3 * epoch
    few = Setting(dataset="mnist", epochs=3, validation=0.0, grad_batches=10)
    assert of(PruneRun(OUT, few, criterion="iterative-snip")) == 3 * LENET * (3 * 60_000 + 60 * 2560)


def test_fits_by_hand() -> None:
    runs = IRPRun(OUT, MNIST), IRPRun(OUT, MNIST, iterations=40)
    folders = tuple(str(run.folder) for run in runs)
    learned = 266_200 * 9 // 10  # the other tenth is held out
    assert of(FitRun(OUT, folders[:1], FitConfig(epochs=4)), labels=runs) == 3 * MLP * 4 * learned
    assert of(FitRun(OUT, folders, FitConfig(epochs=4)), labels=runs) == 2 * 3 * MLP * 4 * learned
    assert of(FitRun(OUT, folders, FitConfig(max_steps=7)), labels=runs) == 3 * MLP * 7 * 1024
    assert of(FitRun(OUT, folders, FitConfig(epochs=4, samples=5000)), labels=runs) == 3 * MLP * 4 * 5000
    short = IRPRun(OUT, MNIST, iterations=4)  # 266,200 and 84,180 weights are more than are sampled of each
    states = FitRun(OUT, (str(short.folder),), FitConfig(epochs=1, rounds=30))
    assert of(states, labels=(short,)) == 3 * MLP * round(0.9 * (65_536 + 65_536 + 26_620 + 8418))
    pruned = PruneRun(OUT, MNIST, criterion=str(states.folder))
    found = cost.flops([pruned], [Stage("autos", (states,))])
    assert found == (3 + 30) * 3 * LENET * 54_000
    resnet = of(FitRun(OUT, folders[:1], FitConfig(epochs=1, backbone="resnet18")), labels=runs)
    assert resnet / (3 * learned) == pytest.approx(2 * 0.556e9, rel=0.01)


def test_the_rate_is_that_of_the_run_it_was_measured_by() -> None:
    setting = Setting("resnet18", "cifar10", epochs=10)
    assert of(IRPRun(OUT, setting, iterations=10)) / cost.FLOPS_PER_SECOND == pytest.approx(142.9)


def test_a_line_for_each_stage_and_one_for_all() -> None:
    assert cost.describe(stages(("table3",), "smoke", OUT)) == [
        "irp: 2 runs, 6 trainings, 6 epochs in all, less than 0.1 GPU hours",
        "autos: 2 runs, 2 fits, less than 0.1 GPU hours",
        "prune: 1 runs, 1 trainings, 1 epochs in all, less than 0.1 GPU hours",
        "prune-autos: 5 runs, 5 trainings, 5 epochs in all, less than 0.1 GPU hours",
        "report: 1 runs",
        "in all: 11 jobs, less than 0.1 GPU hours at the rate of one H200 (bf16), which small networks do not reach",
    ]


@pytest.mark.parametrize("name", PLANS)
def test_docstrings_say_what_the_dry_run_prints(name: str) -> None:
    text = inspect.getdoc(PLANS[name]) or ""
    command, body = text.split("\n\n", 1)
    assert command.endswith(f": `python launch/paper.py {name} --scale full`.")
    assert body.startswith(f"{cost.in_all(stages((name,), 'full', OUT))}.")


def test_so_does_that_of_them_all() -> None:
    assert cost.in_all(stages(tuple(PLANS), "full", OUT)) in " ".join((plans.__doc__ or "").split())


def test_a_dry_run_tells_the_cost_where_the_data_is_not_there(
    script: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AUTOSPARSE_DATA", str(tmp_path / "none"))
    assert script("paper", "table4", "--scale", "full", "--dry-run", "--cluster", "inline") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[5] == (
        "in all: 97 jobs, about 40 GPU hours at the rate of one H200 (bf16), which small networks do not reach"
    )
    missing = ("cifar10", "cifar100", "mnist", "tiny-imagenet")
    assert [line.split()[2] for line in said[6:-1]] == [*missing]
    assert said[-1] == "the jobs are listed once that is there"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", sources.PACKAGED)
def test_the_extent_of_what_is_here(name: str) -> None:
    images = load(name)
    assert extent(name) == Extent(len(images.x_train), images.shape, images.classes)
    assert extent("mnist") == Extent(60_000, (1, 28, 28), 10)
