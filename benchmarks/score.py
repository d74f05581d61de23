"""How many parameters does AutoS score in a second, by its network and by its surface, and are the masks the same?"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from autosparse.autos import AutoS, Features, Scale, StoredSamples, Surface, fit
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
    seconds,
    table,
    write_store,
)

BATCH = 4096  # of the paper's code
SPARSITIES = (0.5, 0.9, 0.95, 0.98, 0.99, 0.995)


@dataclass(frozen=True)
class Arguments:
    """Time the scoring of the triples of a run, repeated to so many, and compare the masks on the run itself."""

    device: Literal["cpu", "cuda"] = "cpu"
    """Where all is scored."""
    parameters: int = 144_000_000
    """How many are scored by the surface."""
    autos: Path | None = None
    """Folder of a fit; without one an mlp is fitted to made-up triples."""
    triples: Path | None = None
    """Folder of a run that the fit has not seen; needed with --autos."""
    resolution: int = 512
    """Nodes an axis of the surface."""
    sample: int = 65_536
    """Parameters scored by the fit's own network."""
    resnet_sample: int = 4096
    """Parameters scored by a resnet18, in batches of 4,096 at most."""
    repeats: int = 3
    """Times the surface is timed; the median counts."""
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
def as_the_paper_does(autos: AutoS, theta: Tensor, grad: Tensor, scale: Scale) -> Tensor:
    """Batches of 4,096 through a DataLoader, one sample at a time."""
    network = autos.network.eval()
    batches = DataLoader(TensorDataset(theta, grad), batch_size=BATCH)
    return torch.cat([network(autos.features.encode(theta, grad, scale=scale)) for theta, grad in batches])


def agreement(
    autos: AutoS, surface: Surface, theta: Tensor, grad: Tensor, scale: Scale
) -> dict[float, tuple[float, bool]]:
    """For each sparsity the share of the network's mask that the surface keeps, and whether refining makes them one.

    Prints them.
    """
    network, full = autos.score(theta, grad, scale=scale), Mask.full(layout_of(len(theta)))
    off = "off by {mean:.1e} in the mean, {p999:.1e} at 99.9%, {max:.1e} at most".format(**surface.error)
    print(f"\nmasks of {len(theta):,} parameters; {len(surface.table)} nodes an axis, {off}\n")
    table("sparsity", "kept", "the same, %", "refined, %", right=0)
    found = {}
    for sparsity in SPARSITIES:
        k = max(1, round((1 - sparsity) * len(theta)))
        own = keep_top(network, k, full).kept
        masks = [
            surface.keep_top(theta, grad, k=k, alive=full, autos=network, scale=scale).kept for network in (None, autos)
        ]
        same = [int((mask & own).sum()) / k for mask in masks]
        row(f"{100 * sparsity:g}%", f"{k:,}", *(f"{100 * share:.3f}" for share in same))
        found[sparsity] = same[0], torch.equal(masks[1], own)
    return found


def main(a: Arguments) -> None:
    """Time and print."""
    heading()
    autos, theta, grad = prepare(a)
    theta, grad = theta.to(a.device), grad.to(a.device)
    scale = Scale.of(theta, grad)
    surface = autos.surface(theta, grad, scale=scale, resolution=a.resolution, tolerance=0)
    masks = agreement(autos, surface, theta, grad, scale)

    times = -(-a.parameters // len(theta))
    many = theta.repeat(times)[: a.parameters], grad.repeat(times)[: a.parameters]
    first = seconds(lambda: surface.score(*many))
    memory = extra_memory(lambda: surface.score(*many), 0 if theta.is_cuda else 4 * a.parameters)
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
    tell("the surface, plain", size, partial(surface.score, *own, scale=scale), a.repeats)
    ours = tell("the surface", a.parameters, partial(surface.score, *many), a.repeats)
    tell("torch.add", a.parameters, partial(torch.add, *many, out=out), a.repeats)
    print(f"\nthe surface's first call, compiling included: {first:.1f} s; peak memory beside inputs and output, ")
    print(f"after that: {memory:,.0f} MiB\n")

    goal(f"{a.parameters:,} scores within 3 s: {ours:.2f}", ours <= 3)
    goal(f"within 20 times torch.add: {ours / add:.1f}", ours <= 20 * add)
    goal(f"10,000 times the paper's way with a resnet18: {paper / ours:,.0f}", paper >= 10_000 * ours)
    goal(f"peak memory beside inputs and output below 256 MiB: {memory:,.0f}", memory < 256)
    least = min(share for share, _ in masks.values())
    goal(f"99.9% of the kept the same at every sparsity: {100 * least:.3f}", least >= 0.999)
    goal("all of them, refined", all(same for _, same in masks.values()))


if __name__ == "__main__":
    run(Arguments, main)
