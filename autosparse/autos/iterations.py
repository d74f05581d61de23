"""Parameters of a run after each of its iterations: columns and labels of the masked network, before any training.

A store has the columns of the initial state and, if the run had a probe, those of the probe in each iteration. Other
fits in rounds or with flow measure the columns again on the network itself, masked as after iteration i, at its
initial weights.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from autosparse.autos.autos import gradient_mode
from autosparse.autos.features import Features, label_table
from autosparse.autos.samples import RunSample, Sample
from autosparse.config import FitConfig
from autosparse.criteria import Scoring
from autosparse.errors import UserError
from autosparse.pruning import Mask
from autosparse.seeds import stream
from autosparse.store import TripleStore
from autosparse.store.order import part_indices

_PER_ITERATION = 1 << 16  # parameters per iteration, at most, so the cost of a fit does not grow with the network


@torch.no_grad()
def measure_iterations(store: TripleStore, model: nn.Module, scoring: Scoring, config: FitConfig) -> RunSample:
    """Measure a run's parameters after each of its iterations; each costs one pass over the batches.

    The model, at its initial weights, does not change. A fit in one round needs only the initial state.
    """
    layout, features, batch_norm = store.layout, Features.of(config), gradient_mode([store.run])
    theta = layout.flatten(layout.weights(model)).clone()
    if not np.array_equal(theta.cpu().numpy(), store.theta()):
        raise UserError(f"the network of {store.storage} cannot be built again with its initial weights")

    def measure(i: int, mask: Mask) -> tuple[Tensor, ...]:
        mask = mask.to(theta.device)
        mask.apply_(model)
        columns = features.measure(model, mask, scoring, batch_norm)
        for name, weight in layout.weights(model).items():
            weight.copy_(layout.unflatten(theta)[name])
        return tuple(values[mask.kept] for values in columns)

    return _sample_run(store, config, measure)


def read_iterations(store: TripleStore, config: FitConfig) -> RunSample:
    """Read the initial weights and the columns of a probe, which the store has of each iteration."""
    theta, names = torch.from_numpy(store.theta()), Features.of(config).columns

    def read(i: int, mask: Mask) -> tuple[Tensor, ...]:
        return tuple(theta[mask.kept] if name == "theta" else torch.from_numpy(store.probe(name, i)) for name in names)

    return _sample_run(store, config, read)


def _sample_run(
    store: TripleStore, config: FitConfig, columns_of: Callable[[int, Mask], tuple[Tensor, ...]]
) -> RunSample:
    """Return the sample of a run; `columns_of` returns the columns of the parameters that the mask m_i keeps."""
    is_held_out = torch.zeros(len(store), dtype=torch.bool)
    is_held_out[torch.from_numpy(part_indices(0, len(store), config.seed, "held-out"))] = True
    survival, densities = torch.from_numpy(store.survival().astype(np.int64)), store.densities
    train, held_out = list[Sample](), list[Sample]()
    for i in range(store.iterations if config.rounds > 1 else 1):
        mask = store.mask(i)
        columns = columns_of(i, mask)
        scale = Features.of(config).scale(*columns, pruned=i > 0)
        chosen = torch.arange(mask.count)
        if mask.count > _PER_ITERATION:
            generator = torch.Generator().manual_seed(stream("sample of states", config.seed, i))
            chosen = torch.randperm(mask.count, generator=generator)[:_PER_ITERATION].sort().values
        columns = tuple(
            values[chosen.to(values.device)].cpu() / magnitude for values, magnitude in zip(columns, scale, strict=True)
        )
        index = mask.kept.nonzero().squeeze(1)[chosen]
        table = label_table(config.label, [density / densities[i] for density in densities[i:]])
        labels = torch.from_numpy(table)[survival[index] - i]
        sample = Sample(columns, (1.0,) * len(columns), labels, torch.full_like(index, i))
        train.append(sample[~is_held_out[index]])
        held_out.append(sample[is_held_out[index]])
    return RunSample(Sample.cat(train), Sample.cat(held_out))
