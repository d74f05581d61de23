"""How many parameters per second does AutoS score by network and by lookup table, and are the masks the same?"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from autosparse.autos import AutoS, Features, LookupTable, StoredSamples, fit, tabulate
from autosparse.autos.backbones import make_network
from autosparse.command import run
from autosparse.config import FitConfig
from autosparse.errors import UserError
from autosparse.pruning import Mask, keep_top
from autosparse.store import TripleStore
from benchmarks.common import (
    extra_memory,
    goal,
    heading,
    layout_of,
    median_seconds,
    random_triples,
    row,
    scratch,
    table,
    write_store,
)

BATCH = 4096  # of the paper's code
SPARSITIES = (0.5, 0.9, 0.95, 0.98, 0.99, 0.995)


@dataclass(frozen=True)
class Arguments:
    """Time the scoring of the triples of a run, repeated to a number of parameters; compare the masks on the run."""

    device: Literal["cpu", "cuda"] = "cpu"
    """Device that scores."""
    parameters: int = 144_000_000
    """Number of parameters scored by the lookup table."""
    autos: Path | None = None
    """Folder of a fit; without one an mlp is fitted to made-up triples."""
    triples: Path | None = None
    """Folder of a run that the fit has not seen; needed with --autos."""
    resolution: int = 512
    """Nodes per axis of the lookup table."""
    sample: int = 65_536
    """Parameters scored by the fit's own network."""
    resnet_sample: int = 4096
    """Parameters scored by a resnet18, in batches of 4,096 at most."""
    repeats: int = 3
    """Number of times the lookup table is timed; the median counts."""
    folder: Path | None = None
    """Where a folder for the made-up triples is made, and deleted again."""


def prepare(a: Arguments) -> tuple[AutoS, Tensor, Tensor]:
    """A fitted network, and the weights and gradients of a run."""
    if (a.autos is None) != (a.triples is None):
        raise UserError("--autos and --triples go together: a fit, and a run that it has not seen")
    if a.autos and a.triples:
        store = TripleStore.open(a.triples)
        return AutoS.load(a.autos), torch.from_numpy(store.theta()), torch.from_numpy(store.grad())
    triples = random_triples(1 << 15)
    with scratch(a.folder) as folder:
        write_store(folder / "triples.zarr", triples)
        autos = fit(
            StoredSamples([TripleStore.open(folder / "triples.zarr")], FitConfig(max_steps=100)), Accelerator(cpu=True)
        )
    return autos, torch.from_numpy(triples["theta"]), torch.from_numpy(triples["grad"])


@torch.no_grad()
def as_the_paper_does(autos: AutoS, theta: Tensor, grad: Tensor, scale: tuple[float, ...]) -> Tensor:
    """Batches of 4,096 through a DataLoader, one sample at a time."""
    network = autos.network.eval()
    batches = DataLoader(TensorDataset(theta, grad), batch_size=BATCH)
    return torch.cat([network(autos.features.encode(theta, grad, scale=scale)) for theta, grad in batches])


def agreement(autos: AutoS, lookup: LookupTable, theta: Tensor, grad: Tensor, scale: tuple[float, ...]) -> float:
    """Print for each sparsity the fraction of the network's mask that the lookup table keeps; return the smallest."""
    scores, full = autos.score(theta, grad, scale=scale), Mask.full(layout_of(len(theta)))
    off = "off by {mean:.1e} in the mean, {p999:.1e} at 99.9%, {max:.1e} at most".format(**lookup.error)
    print(f"\nmasks of {len(theta):,} parameters; {len(lookup.values)} nodes per axis, {off}\n")
    table("sparsity", "kept", "the same, %", right=0)
    fractions = []
    for sparsity in SPARSITIES:
        k = max(1, round((1 - sparsity) * len(theta)))
        masks = [keep_top(values, k, full).kept for values in (scores, lookup.score(theta, grad, scale=scale))]
        fractions.append(int((masks[0] & masks[1]).sum()) / k)
        row(f"{100 * sparsity:g}%", f"{k:,}", f"{100 * fractions[-1]:.3f}")
    return min(fractions)


def main(a: Arguments) -> None:
    """Time and print."""
    heading()
    autos, theta, grad = prepare(a)
    theta, grad = theta.to(a.device), grad.to(a.device)
    scale = Features().scale(theta, grad)
    lookup = tabulate(autos, theta, grad, scale=scale, resolution=a.resolution, tolerance=0)
    least = agreement(autos, lookup, theta, grad, scale)

    times = -(-a.parameters // len(theta))
    many = theta.repeat(times)[: a.parameters], grad.repeat(times)[: a.parameters]
    memory = extra_memory(lambda: lookup.score(*many), 0 if theta.is_cuda else 4 * a.parameters)
    print(f"\n{a.parameters:,} parameters; ways that take longer than minutes are measured on a sample and scaled\n")
    table("scored by", "sample", "parameters/s", f"seconds for {a.parameters:,}", "of torch.add")
    out = torch.empty_like(many[0])
    add = median_seconds(lambda: torch.add(*many, out=out), a.repeats)

    def tell(name: str, sample: int, way: Callable[[], object], repeats: int = 1) -> float:
        taken = median_seconds(way, repeats) * a.parameters / sample
        row(name, f"{sample:,}", f"{a.parameters / taken:,.0f}", f"{taken:,.2f}", f"{taken / add:,.1f}")
        return taken

    resnet = AutoS(make_network("resnet18", Features(), 0), "resnet18", Features())
    few = many[0][: a.resnet_sample], many[1][: a.resnet_sample]
    own = many[0][: a.sample], many[1][: a.sample]
    size = len(own[0])
    paper = tell("resnet18, the paper's way", a.resnet_sample, partial(as_the_paper_does, resnet, *few, scale))
    tell("resnet18, one loop", a.resnet_sample, partial(resnet.score, *few, scale=scale))
    tell(f"{autos.backbone}, the paper's way", size, partial(as_the_paper_does, autos, *own, scale))
    tell(f"{autos.backbone}, one loop", size, partial(autos.score, *own, scale=scale))
    ours = tell("the lookup table", a.parameters, partial(lookup.score, *many), a.repeats)
    tell("torch.add", a.parameters, partial(torch.add, *many, out=out), a.repeats)
    print()
    goal(f"{a.parameters:,} scores within 3 s: {ours:.2f}", ours <= 3)
    goal(f"within 20 times torch.add: {ours / add:.1f}", ours <= 20 * add)
    goal(f"10,000 times the paper's way with a resnet18: {paper / ours:,.0f}", paper >= 10_000 * ours)
    goal(f"peak memory besides inputs and output below 256 MiB: {memory:,.0f}", memory < 256)
    goal(f"99.9% of the kept the same at every sparsity: {100 * least:.3f}", least >= 0.999)


if __name__ == "__main__":
    run(Arguments, main)
