"""Fitting AutoS to the parameters of one or several runs (paper, section 4.2 and appendix B)."""

import math
from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch.nn import functional as F

from autosparse.autos.autos import AutoS
from autosparse.autos.backbones import make_network
from autosparse.autos.features import Features
from autosparse.autos.samples import Samples
from autosparse.config import FitConfig
from autosparse.generators import restoring_torch_generators, seed_torch
from autosparse.options import option_values
from autosparse.seeds import streams
from autosparse.store import Counters
from autosparse.training import Checkpoint
from autosparse.training.step import end_epoch


def fit(
    samples: Samples,
    accelerator: Accelerator,
    *,
    resume: Checkpoint | None = None,
    progress: Callable[[int, Counters], object] = lambda steps, counters: None,
    after_epoch: Callable[[int, float], object] = lambda epochs, loss: None,
) -> AutoS:
    """Fit a network to the labels of nine tenths of the samples, with Adam and the mean squared error.

    Args:
        samples: the parameters to fit to; `samples.config` says how.
        accelerator: of this process; batches are cut over all.
        resume: where to keep and look for the state. Going on with another number of processes takes the same samples
            in the same order; with the same number it ends with the same bits.
        progress: told the number of steps done since it was last told, and how the reading goes.
        after_epoch: told the number of epochs done and the mean loss of the last.

    Returns:
        The criterion, its card telling what made it, without metrics: see `validate`.

    Raises:
        UserError: no runs, or a loss that is not a number.
    """
    config = samples.config
    features = Features.of(config)
    model = make_network(config.backbone, features, config.seed).to(accelerator.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)
    batches = samples.batches(accelerator)
    steps = number_of_steps(config, len(batches))
    position = resume.load(model, optimizer) if resume else None
    first_epoch, done, losses = 0, 0, list[float]()
    total = torch.zeros((), dtype=torch.float32, device=accelerator.device)
    if position:
        batches.sampler.load_state_dict(position["batches"])
        first_epoch, losses = position["batches"]["epoch"], position["losses"]
        total += position["total"]
        done = first_epoch * len(batches) + position["batches"]["batch"]
        progress(done, batches.sampler.counters)
    network = accelerator.prepare_model(model)
    model.train()
    with restoring_torch_generators(accelerator.device):
        for epoch in range(first_epoch, -(-steps // len(batches))):
            first = batches.sampler.state_dict()["batch"]
            dropout = streams("dropout of AutoS", len(batches), config.seed, epoch, accelerator.process_index)
            for step, (inputs, labels) in enumerate(batches, first):
                if config.anneal:
                    for group in optimizer.param_groups:
                        group["lr"] = config.learning_rate * (1 + math.cos(math.pi * done / steps)) / 2
                seed_torch(int(dropout[step]), accelerator.device)
                loss = F.mse_loss(network(inputs), labels)
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
                total += loss.detach()
                done += 1
                progress(1, batches.sampler.counters)
                if done == steps:
                    break
                if resume and resume.due():
                    here = {"batches": batches.sampler.state_dict(), "losses": losses, "total": total.item()}
                    resume.save(model, optimizer, here)
            taken = min(len(batches), steps - epoch * len(batches))
            losses.append(end_epoch(model, total, taken, epoch, accelerator))
            after_epoch(epoch + 1, losses[-1])
    if network is not model:
        accelerator.free_memory()
    card = {
        "runs": [
            {"fingerprint": store.fingerprint, "iterations": store.iterations, **store.run} for store in samples.stores
        ],
        "fit": option_values(config, identity=True),
        "losses": losses,
    }
    return AutoS(model.eval(), config.backbone, features, card)


def number_of_steps(config: FitConfig, an_epoch: int) -> int:
    """Steps of a whole fit of so many an epoch."""
    steps = config.epochs * an_epoch
    return min(steps, config.max_steps) if config.max_steps else steps
