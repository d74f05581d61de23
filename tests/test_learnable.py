"""The measures of what can be learned, where the right value is known."""

from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from autosparse.config import IRPConfig
from autosparse.jobs import IRPRun
from autosparse.jobs.base import TrainingOptions
from autosparse.lookahead import Probe
from autosparse.pruning import Layer, Layout, Mask
from autosparse.store import TripleStore
from autosparse.tasks import Data, Images
from autosparse.training import Recipe, train
from benchmarks.learnable import Seen, Together, _ceiling, _context, _judged, _Regression


@pytest.fixture(scope="module")
def pair(finished: Path) -> tuple[Seen, TripleStore]:
    config = IRPConfig(iterations=4)
    run = IRPRun(output=finished, setting=TrainingOptions(task=Images(source="digits"), epochs=2), config=config)
    return Seen.of(run), TripleStore.open(run.folder)


def test_a_run_is_its_own_ceiling(pair: tuple[Seen, TripleStore]) -> None:
    found = _ceiling([pair, pair])
    assert found["correlation"] == found["within layers"] == found["Spearman"] == "1.000 ± 0.000"
    assert found["overlap at 99%"] == "1.000 ± 0.000"  # N = 4 ends there, so that nothing is tied


def test_what_holds_the_answer_explains_all(pair: tuple[Seen, TripleStore]) -> None:
    seen, store = pair
    answer = Seen(store, seen._probes)
    answer._first = {**answer._first, "grad": np.sign(store.theta()) * store.survival().astype(np.float32)}
    best = _judged([(answer, store)], _Regression(("grad",)), 1.0, [answer])
    assert float(best["R²"].split()[0]) > 0.99
    less = _judged([(answer, store)], _Regression(("theta",)), 1.0, [answer])
    assert 0 < float(less["R²"].split()[0]) < 0.9
    assert less["R²"] == less["R², its own order"]


def test_rows_and_columns_of_a_layer() -> None:
    layout = Layout((Layer("a.weight", (2, 3), 0, 3, 2), Layer("b.weight", (1, 2, 2), 6, 4, 1)))
    sizes = torch.tensor([1.0, 2, 3, 4, 5, 6, 1, 1, 3, 3])
    assert _context(layout, "row", sizes).tolist() == [2, 2, 2, 5, 5, 5, 2, 2, 2, 2]
    assert _context(layout, "column", sizes).tolist() == [2.5, 3.5, 4.5, 2.5, 3.5, 4.5, 1, 1, 3, 3]
    assert _context(layout, "layer", sizes).tolist() == [0] * 6 + [1] * 4


def test_probes_of_several_lengths_see_what_each_sees_alone(
    model: nn.Module, data: Data, accelerator: Accelerator
) -> None:
    start = {name: value.clone() for name, value in model.state_dict().items()}
    layout, recipe = Layout.of(model), Recipe(1, "nesterov", 0.05, batch_size=128)
    probes = [Probe(layout, steps, ("probe-gradient", "probe-theta")) for steps in (2, 5)]
    train(model, Mask.full(layout), data, recipe, accelerator, callback=Together(probes), steps=5)
    for probe in probes:
        model.load_state_dict(start)
        alone = Probe(layout, probe.steps, ("probe-gradient", "probe-theta"))
        train(model, Mask.full(layout), data, recipe, accelerator, callback=alone, steps=probe.steps)
        for name, values in probe.columns.items():
            assert torch.equal(values, alone.columns[name])
