import json
from pathlib import Path

import pytest

from autosparse.cluster import Resources, launch
from autosparse.errors import UserError
from tests.cluster.jobs import Note


def test_jobs_keep_to_the_array_parallelism_and_are_spread_over_the_gpus_that_this_process_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,3,7")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    jobs = [Note(tmp_path, word, seconds=0.5) for word in "abc"]
    launch(jobs, Resources(cluster="local", array_parallelism=2), tmp_path, "notes")
    spans = [json.loads((job.folder / "span0").read_text()) for job in jobs]
    assert max(sum(start <= moment < end for start, end, *_ in spans) for moment, *_ in spans) <= 2
    assert [visible for *_, visible in spans[:2]] == ["5", "3"]


@pytest.mark.parametrize(
    ("visible", "gpus", "message"),
    [
        ("5,3", 3, "gpus-per-node 3: this machine has 2"),
        ("GPU-8932f937", 1, "takes CUDA_VISIBLE_DEVICES as numbers, such as 0,1, got GPU-8932f937"),
    ],
)
def test_gpus_that_cannot_be_given_are_refused(
    visible: str, gpus: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(UserError, match=message):
        launch([Note(tmp_path, "b")], Resources(cluster="local", gpus_per_node=gpus), tmp_path, "notes")
    assert list(tmp_path.iterdir()) == []
