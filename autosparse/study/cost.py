"""What a graph of runs costs, before any of them runs: trainings, epochs and GPU hours.

GPU hours are floating-point operations (FLOPs) over a measured rate. Counted are the forward and backward passes of
trainings, of fits, and of criteria that look at the data in many rounds; what is a hundredth of those is not: one-shot
scores, the validation of a fit and its surface. The rate is that of large steps in bf16: a network too small to fill a
GPU (LeNet-300-100, the mlp of AutoS), or float32, takes longer than is said here.
"""

from collections.abc import Sequence
from functools import cache

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from autosparse import networks
from autosparse.autos.backbones import BACKBONES
from autosparse.autos.trajectory import SAMPLES
from autosparse.cluster import Job, Stage
from autosparse.criteria import make_criterion
from autosparse.criteria.force import Force
from autosparse.criteria.rounds import Rounds
from autosparse.criteria.snip import snip
from autosparse.data.extent import extent
from autosparse.irp import SCORING_BATCH
from autosparse.jobs import FitRun, IRPRun, PruneRun
from autosparse.jobs.setting import Setting
from autosparse.pruning import Layout
from autosparse.pruning.schedule import keep_count
from autosparse.store.order import count

# benchmarks/RESULTS.md, "The road on one H200": IRP of ResNet-18 on CIFAR-10 in bf16 and batches of 512, all that it
# does beside training included: 11 trainings of 10 epochs of 45,000 images, of 1.11 GFLOP forward, in 142.9 s
FLOPS_PER_SECOND = 11 * 10 * 45_000 * 3 * 1.11084544e9 / 142.9
_PASSES = 3  # forward and backward; the backward pass takes the gradients of weights and of inputs


def forward_flops(model: nn.Module, shape: tuple[int, ...]) -> int:
    """FLOPs of a forward pass of one sample through a model on the meta device; a multiply-add is two.

    Args:
        model: any.
        shape: of the sample.
    """
    training = model.training
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.empty(1, *shape, device="meta"))
    model.train(training)
    return counter.get_total_flops()


def flops(jobs: Sequence[Job], graph: Sequence[Stage]) -> float:
    """FLOPs of jobs.

    Args:
        jobs: of any kind; a report has none.
        graph: with the runs of IRP that fits among the jobs take their triples from.
    """
    labels = {job.folder: job for stage in graph for job in stage.jobs if isinstance(job, IRPRun)}
    fits = [job for stage in graph for job in stage.jobs if isinstance(job, FitRun)]
    in_rounds = {str(fit.folder): fit.how.rounds for fit in fits if fit.how.rounds > 1}
    total = 0.0
    for job in jobs:
        if isinstance(job, IRPRun | PruneRun):
            epochs = _trainings(job) * job.setting.make_recipe().epochs
            rounds = 0
            if isinstance(job, PruneRun):
                rounds = in_rounds.get(job.criterion, 0) if job.learned else _rounds(job.criterion)
            each = _PASSES * _network(job.setting)[0]
            total += each * (epochs * _images(job.setting) + rounds * _scored(job.setting))
        elif isinstance(job, FitRun):
            triples = job.how.epochs * _an_epoch(job, [run for run in labels.values() if str(run.folder) in job.runs])
            if job.how.max_steps:
                triples = min(triples, job.how.max_steps * job.how.batch_size)
            total += _PASSES * _backbone(job.how.backbone, job.how.features.width) * triples
    return total


def describe(graph: Sequence[Stage]) -> list[str]:
    """A line for each stage, and one for all."""
    lines = [_stage(stage, graph) for stage in graph]
    return [*lines, f"in all: {in_all(graph)} at the rate of one H200 (bf16), which small networks do not reach"]


def in_all(graph: Sequence[Stage]) -> str:
    """Jobs and GPU hours of a graph, in words."""
    jobs = [job for stage in graph for job in stage.jobs]
    return f"{len(jobs):,} jobs, {_hours(flops(jobs, graph))}"


def _stage(stage: Stage, graph: Sequence[Stage]) -> str:
    trained = [job for job in stage.jobs if isinstance(job, IRPRun | PruneRun)]
    fits = sum(isinstance(job, FitRun) for job in stage.jobs)
    said = [f"{stage.name}: {len(stage.jobs):,} runs"]
    if trained:
        epochs = sum(_trainings(job) * job.setting.make_recipe().epochs for job in trained)
        said += [f"{sum(map(_trainings, trained)):,} trainings", f"{epochs:,} epochs in all"]
    elif fits:
        said.append(f"{fits:,} fits")
    return ", ".join([*said, *([_hours(flops(stage.jobs, graph))] if len(said) > 1 else [])])


def _hours(flops: float) -> str:
    hours = flops / FLOPS_PER_SECOND / 3600
    return f"about {hours:,.{0 if hours > 10 else 1}f} GPU hours" if hours >= 0.05 else "less than 0.1 GPU hours"


def _trainings(job: IRPRun | PruneRun) -> int:
    return job.iterations + 1 if isinstance(job, IRPRun) else 1


def _rounds(name: str) -> int:
    """How often a criterion in rounds goes over the data; SynFlow's rounds look at one sample."""
    match make_criterion(name):
        case Rounds(criterion=criterion, rounds=rounds) if criterion is snip:
            return rounds
        case Force(rounds=rounds):
            return rounds
    return 0


def _an_epoch(fit: FitRun, runs: Sequence[IRPRun]) -> int:
    """Triples or samples of states that a fit sees in an epoch."""
    sizes = [_network(run.setting)[1] for run in runs]
    if not fit.how.by_states:
        triples = sum(count(0, size, fit.how.seed, "train") for size in sizes)
        return min(fit.how.samples or triples, triples)
    alive = [
        min(SAMPLES, keep_count(run.make_schedule().density(i), size))
        for run, size in zip(runs, sizes, strict=True)
        for i in range(run.iterations if fit.how.rounds > 1 else 1)
    ]
    return round(0.9 * sum(alive))  # a tenth is held out


def _images(setting: Setting) -> int:
    """Images in an epoch."""
    images = extent(setting.dataset, setting.data_root).images
    return images - round(setting.validation_share * images)


def _scored(setting: Setting) -> int:
    """Images that a gradient looks at."""
    images = _images(setting)
    return images if setting.grad_batches is None else min(images, setting.grad_batches * SCORING_BATCH)


def _network(setting: Setting) -> tuple[int, int]:
    """FLOPs of a forward pass of one image, and prunable parameters."""
    found = extent(setting.dataset, setting.data_root)
    return _counted(setting.network, found.shape, found.classes)


@cache
def _counted(network: str, shape: tuple[int, int, int], classes: int) -> tuple[int, int]:
    with torch.device("meta"):
        model = networks.NETWORKS[network](shape, classes)
    return forward_flops(model, shape), Layout.of(model).size


@cache
def _backbone(name: str, width: int) -> int:
    with torch.device("meta"):
        model = BACKBONES[name](width)
    return forward_flops(model, (width,))
