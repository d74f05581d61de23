"""A graph of runs on a cluster where one thing after the other goes wrong: it ends as if nothing had been."""

import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autosparse.cluster import Resources, Stage, launch_graph, slurm, status
from autosparse.config import IRPConfig, PruneConfig
from autosparse.errors import UserError
from autosparse.files import read_record
from autosparse.jobs import IRPRun, PruneRun
from autosparse.jobs.base import TrainingOptions, TrainingRun
from autosparse.tasks import Images
from autosparse.tensors import load
from tests.conftest import Capture, tree
from tests.slurm.chaos import Chaos, summary
from tests.slurm.conftest import Sandbox, until

SETTING = TrainingOptions(task=Images(source="digits"), epochs=3)
RESOURCES = Resources(
    partition="low", gpus_per_node=0, cpus_per_task=1, array_parallelism=4, max_requeues=1000, slurm=("exclusive",)
)
RECORDS = ("job.json", "status.json", "progress.json", "environment.json", "code.diff", "batch.sh")


@pytest.fixture
def cluster(sandbox: Sandbox) -> Iterator[Sandbox]:
    """The sandbox; another one after, as a node may think for good that it still runs what it was not told to end."""
    yield sandbox
    sandbox.start()


def graph(output: Path, irp: int, prune: int, iterations: int) -> list[Stage]:
    """Runs of IRP, and prunings that wait for them."""
    made = {"output": output, "setting": SETTING}
    heads = [IRPRun(**made, config=IRPConfig(iterations=iterations, seed=seed)) for seed in range(irp)]
    tails = [PruneRun(**made, config=PruneConfig(criterion="snip", sparsity=0.95, seed=seed)) for seed in range(prune)]
    return [Stage("irp", tuple(heads)), Stage("prune", tuple(tails), after=("irp",))]


def jobs_of(stages: Sequence[Stage]) -> list[TrainingRun]:
    return [job for stage in stages for job in stage.jobs if isinstance(job, TrainingRun)]


def done(runs: Sequence[TrainingRun]) -> float:
    """The share of all trainings that are done."""
    rows = 0
    for job in runs:
        try:
            rows += len(json.loads((job.folder / "history.json").read_text()))
        except (OSError, ValueError):
            rows += (job.folder / "result.json").is_file()
    return rows / sum(job.config.iterations + 1 if isinstance(job, IRPRun) else 1 for job in runs)


def result(job: TrainingRun) -> dict[str, Any]:
    """All that a run has computed: its files, but for what tells of its attempts."""
    files: dict[str, Any] = {name: content for name, content in tree(job.folder).items() if name not in RECORDS}
    files["config.yaml"] = files["config.yaml"].replace(str(job.output).encode(), b"")
    files = {name: content for name, content in files.items() if not name.startswith(("logs/", ".lease-"))}
    if "result.json" in files:
        files["result.json"] = {**json.loads(files["result.json"]), "seconds": None}
        tensors, about = load(job.folder / "mask.safetensors")  # safetensors writes words in any order
        files["mask.safetensors"] = {name: values.tolist() for name, values in tensors.items()} | about
    return files


@pytest.mark.parametrize(
    ("irp", "prune", "iterations", "events", "but", "runs_per_job"),
    [
        # a controller that was killed with a node takes a minute until it misses that node's job
        (4, 2, 4, 10, ("the controller is killed",), 2),
        pytest.param(24, 16, 6, 200, (), 1, marks=pytest.mark.long),
        pytest.param(24, 16, 6, 200, (), 4, marks=pytest.mark.long),
    ],
)
def test_a_graph_in_chaos(
    irp: int,
    prune: int,
    iterations: int,
    events: int,
    but: tuple[str, ...],
    runs_per_job: int,
    cluster: Sandbox,
    disk: Path,
    tmp_path: Path,
    capsys: Capture,
) -> None:
    launch_graph(graph(tmp_path / "calm", irp, prune, iterations), Resources(cluster="inline"), tmp_path / "calm")
    output, log = disk / tmp_path.name, tmp_path / "events.jsonl"
    stages = graph(output, irp, prune, iterations)
    runs = jobs_of(stages)

    def command() -> None:
        try:
            launch_graph(stages, replace(RESOURCES, runs_per_job=runs_per_job), output)
        except (UserError, OSError) as error:  # a silent Slurm, a full disk, a damaged file
            chaos.write(said=str(error))

    def look() -> set[str]:
        """What a person does who watches the table: where runs have stopped, what is advised, and the command again."""
        nonlocal asked
        chaos.note()
        states = {row["state"].partition(" (")[0] for row in status.rows([job.folder for job in runs])}
        stuck = states & {"held", *status.ENDED[1:]} or "running" not in states
        if stuck and states != {"complete"} and time.monotonic() - asked > 3:
            command()
            told = [capsys.readouterr().err, *(str(read_record(job.folder / "status.json").get("why")) for job in runs)]
            for advised in re.findall(r"(\S+) is damaged; delete this file alone", "\n".join(told)):
                Path(advised).unlink(missing_ok=True)
            asked = time.monotonic()
        return states

    chaos, struck = Chaos(cluster, disk, runs, command, log, seed=0, but=but), 0
    command()
    asked = last = time.monotonic()
    while struck < events:
        look()
        if done(runs) >= (struck + 1) / (events + 1) or time.monotonic() - last > 6:
            chaos.strike()
            struck, last = struck + 1, time.monotonic()
        time.sleep(0.5)
    chaos.repair()
    until(lambda: look() == {"complete"} and slurm.queue() == {})
    with capsys.disabled():
        print(summary(log))
    for calm, job in zip(jobs_of(graph(tmp_path / "calm", irp, prune, iterations)), runs, strict=True):
        assert result(job) == result(calm), job.folder.name
        assert job.is_complete()
    assert {path.name for path in output.iterdir()} == {"irp", "prune", "submitted"}
    assert not [path for path in output.rglob("*") if path.name.endswith(".tmp")]
