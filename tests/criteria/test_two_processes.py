"""Every criterion gives one process and two the same scores, and both of two the same."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from autosparse.cluster import process
from autosparse.criteria import Scoring, select
from autosparse.criteria.table import CRITERIA
from autosparse.pruning import Layout, Mask
from tests.criteria.quick import quick, scores_or_mask
from tests.models import digits
from tests.world import world


def score(folder: Path) -> None:
    """Save the scores and the mask of each criterion, as one process of a world of any size."""
    accelerator = process.start(1)
    rank, size = accelerator.process_index, accelerator.num_processes
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1), nn.Linear(256, 10)
    )
    batches = digits(validation=0.0, rank=rank, world_size=size).scoring(100, limit=3)
    full, k, found = Mask.full(Layout.of(model)), 260, {}
    for name in CRITERIA:
        criterion = quick(name)
        scores = scores_or_mask(criterion, model, Scoring(batches), k)
        found[name] = scores, select(criterion, model, full, Scoring(batches), k).kept
    torch.save(found, folder / f"{size}-{rank}.pt")
    process.finish(accelerator)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, tuple[Tensor, Tensor]]]:
    """Scores and masks of one process, and of each of two."""
    folder: Path = tmp_path_factory.mktemp("worlds")
    for size in (1, 2):
        assert world(size, score, folder) == [None] * size
    return [torch.load(folder / f"{name}.pt") for name in ("1-0", "2-0", "2-1")]


@pytest.mark.parametrize("name", CRITERIA)
def test_one_and_two_processes_score_alike(name: str, found: list[dict[str, tuple[Tensor, Tensor]]]) -> None:
    (one, kept), *two = (world[name] for world in found)
    assert torch.equal(two[0][1], two[1][1])
    scale = one[one.isfinite()].abs().max().item()
    for scores, mask in two:
        torch.testing.assert_close(scores, one, rtol=1e-6, atol=1e-6 * scale)
        assert torch.equal(mask, kept)
