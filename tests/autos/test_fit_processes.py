"""A fit on two processes, stopped in the middle of an epoch."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator

from autosparse.autos import BACKBONES, AutoS, StoredSamples, fit
from autosparse.cluster import process
from autosparse.config import FitConfig
from autosparse.store import TripleStore
from autosparse.training import Checkpoint
from tests.models import small
from tests.world import world

pytestmark = pytest.mark.usefixtures("small_mlp")
CONFIG = FitConfig(epochs=2, batch_size=1536, memory="64MB")


def fit_and_resume(run: Path, folder: Path) -> list[tuple[str, int, int]]:
    """Fit as one of two processes: at once, stopped, and resumed; return the first step and the number of steps."""
    BACKBONES["mlp"] = small
    accelerator, done = process.start(1), list[tuple[str, int, int]]()
    samples, main = StoredSamples([TripleStore.open(run)], CONFIG), accelerator.is_main_process

    def fitted(name: str, stop: int = 0, **how: Any) -> None:
        steps = list[int]()

        def progress(count: int, counters: object) -> None:
            steps.append(count)
            if len(steps) == stop:
                raise InterruptedError

        autos = fit(samples, accelerator, progress=progress, **how)
        if main:
            autos.save(folder / name)
        done.append((name, steps[0], sum(steps)))

    checkpoint = Checkpoint(folder / "checkpoint.pt", "fit", 0, write=main)
    fitted("whole")
    with pytest.raises(InterruptedError):
        fitted("cut", stop=40, resume=checkpoint)
    if main:
        shutil.copy(checkpoint.path, folder / "cut.pt")
    fitted("resumed", resume=checkpoint)
    process.finish(accelerator)
    return done


@pytest.fixture(scope="module")
def folder(irp_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which two processes leave a whole fit, a stopped one and the resumed one."""
    folder = tmp_path_factory.mktemp("fits")
    assert world(2, fit_and_resume, irp_run, folder) == [[("whole", 1, 58), ("resumed", 39, 58)]] * 2
    return folder


def test_two_processes_resumed_in_an_epoch_end_with_the_same_bits(folder: Path) -> None:
    for name in ("autos.safetensors", "autos.json"):
        assert (folder / "resumed" / name).read_bytes() == (folder / "whole" / name).read_bytes()


def test_fit_resumes_with_another_number_of_processes(folder: Path, irp_run: Path, accelerator: Accelerator) -> None:
    samples, steps = StoredSamples([TripleStore.open(irp_run)], CONFIG), list[int]()
    resume = Checkpoint(folder / "cut.pt", "fit")
    cut = fit(samples, accelerator, resume=resume, progress=lambda done, counters: steps.append(done))
    assert steps == [39] + [1] * 19
    losses = AutoS.load(folder / "whole").card["losses"]
    assert cut.card["losses"][0] == losses[0]
    assert cut.card["losses"][1] == pytest.approx(losses[1], rel=0.1)  # batch norm saw twice as many at a time
