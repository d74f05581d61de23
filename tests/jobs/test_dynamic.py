from pathlib import Path

import pytest
from accelerate import Accelerator

import autosparse
from autosparse.config import PruneConfig
from autosparse.errors import UserError
from autosparse.files import read_json
from autosparse.jobs import PruneRun
from autosparse.jobs.base import TrainingOptions
from autosparse.pruning import Mask
from autosparse.tasks import Images
from autosparse.training import Checkpoint
from tests.conftest import Patch


class KilledError(Exception):
    """The process ends here."""


def run_of(output: Path, name: str, **options: object) -> PruneRun:
    setting = TrainingOptions(task=Images(source="digits"), epochs=2)
    return PruneRun(output=output, setting=setting, config=PruneConfig(criterion=name, sparsity=0.9, **options))


def test_run_killed_between_checkpoints_ends_with_the_same_mask(
    tmp_path: Path, accelerator: Accelerator, monkeypatch: Patch
) -> None:
    whole, job = (run_of(tmp_path / part, "rigl", trainings=4) for part in ("whole", "killed"))
    for each in (whole, job):
        each.check()
        each.folder.mkdir(parents=True)
    whole.run(accelerator)
    asked = 0

    def every_tenth(checkpoint: Checkpoint) -> bool:
        nonlocal asked
        asked += 1
        if asked == 47:
            raise KilledError
        return asked % 10 == 0

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "due", every_tenth)
        with pytest.raises(KilledError):
            job.run(accelerator)
    assert (job.folder / "checkpoint.pt").is_file()
    assert not job.is_complete()
    job.run(accelerator)
    first, second = (read_json(each.folder / "result.json") for each in (whole, job))
    assert first["history"] == second["history"]
    masks = [Mask.load(each.folder / "mask.safetensors") for each in (whole, job)]
    assert masks[0].kept.equal(masks[1].kept)


def test_dynamic_criterion_is_refused_by_the_api_and_with_sanity_checks(tmp_path: Path, model: object) -> None:
    with pytest.raises(UserError, match="gmp chooses its mask during the training; run autosparse prune"):
        autosparse.prune(model, [], criterion="gmp")
    with pytest.raises(UserError, match="rigl chooses its mask during the training; sanity checks"):
        run_of(tmp_path, "rigl", sanity="shuffled").check()
