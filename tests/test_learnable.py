"""The measures of `benchmarks.learnable`, where the right value is known."""

from pathlib import Path

import numpy as np
import pytest

from autosparse.config import IRPConfig
from autosparse.jobs import IRPRun
from autosparse.jobs.base import TrainingOptions
from autosparse.store import TripleStore
from autosparse.tasks import Images
from benchmarks.learnable import Seen, _ceiling, _judged, _Regression


@pytest.fixture(scope="module")
def pair(finished: Path) -> tuple[Seen, TripleStore]:
    config = IRPConfig(iterations=4)
    run = IRPRun(output=finished, setting=TrainingOptions(task=Images(source="digits"), epochs=2), config=config)
    return Seen.of(run), TripleStore.open(run.folder)


def test_run_predicts_itself_perfectly(pair: tuple[Seen, TripleStore]) -> None:
    found = _ceiling([pair, pair])
    assert found["correlation"] == found["within layers"] == found["Spearman"] == "1.000 ± 0.000"
    assert found["overlap at 99%"] == "1.000 ± 0.000"  # N = 4 ends there, so that nothing is tied


def test_feature_that_is_the_answer_explains_all(pair: tuple[Seen, TripleStore]) -> None:
    seen, store = pair
    answer = Seen(store, seen._probes)
    answer._first = {**answer._first, "grad": np.sign(store.theta()) * store.survival().astype(np.float32)}
    best = _judged([(answer, store)], _Regression(("grad",)), 1.0, [answer])
    assert float(best["R²"].split()[0]) > 0.99
    less = _judged([(answer, store)], _Regression(("theta",)), 1.0, [answer])
    assert 0 < float(less["R²"].split()[0]) < 0.9
    assert less["R²"] == less["R², its own order"]
