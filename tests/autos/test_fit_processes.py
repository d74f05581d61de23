"""A fit on two processes, stopped in the middle of an epoch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate import Accelerator

from autosparse.autos import AutoS, StoredSamples, fit
from autosparse.config import FitConfig
from autosparse.store import TripleStore
from autosparse.training import Checkpoint
from tests.conftest import ROOT

pytestmark = pytest.mark.usefixtures("small_mlp")
CONFIG = FitConfig(epochs=2, batch_size=1536, memory="64MB")
SCRIPT = """
import shutil
import sys
from pathlib import Path
from autosparse.config import FitConfig
from autosparse.autos import BACKBONES, StoredSamples, fit
from autosparse.cluster import process
from autosparse.store import TripleStore
from autosparse.training import Checkpoint
from tests.autos.conftest import small

BACKBONES["mlp"] = small
accelerator = process.start(1)
assert accelerator.num_processes == 2
folder = Path(sys.argv[2])
samples = StoredSamples([TripleStore.open(sys.argv[1])], FitConfig(epochs=2, batch_size=1536, memory="64MB"))

def fitted(name, stop=0, **how):
    steps = []

    def progress(done, counters):
        steps.append(done)
        if len(steps) == stop:
            raise InterruptedError

    autos = fit(samples, accelerator, progress=progress, **how)
    if accelerator.is_main_process:
        autos.save(folder / name)
    print(name, steps[0], sum(steps), flush=True)

checkpoint = Checkpoint(folder / "checkpoint.pt", "fit", 0, write=accelerator.is_main_process)
fitted("whole")
try:
    fitted("cut", stop=40, resume=checkpoint)
except InterruptedError:
    if accelerator.is_main_process:
        shutil.copy(checkpoint.path, folder / "cut.pt")
    fitted("resumed", resume=checkpoint)
process.finish(accelerator)
"""


@pytest.fixture(scope="module")
def folder(irp_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which two processes leave a whole fit, a stopped one and the resumed one."""
    folder, processes = tmp_path_factory.mktemp("fits"), []
    for rank in range(2):
        group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1"}
        group["TORCHELASTIC_RUN_ID"] = "none"  # as under torchrun
        group["MASTER_PORT"] = 30000 + os.getpid() % 9000
        environment = os.environ | {key: str(value) for key, value in group.items()}
        command = [sys.executable, "-c", SCRIPT, str(irp_run), str(folder)]
        pipe = subprocess.PIPE
        processes.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True))
    outputs = [process.communicate() for process in processes]
    assert [output.splitlines() for output, _ in outputs] == [["whole 1 58", "resumed 39 58"]] * 2, outputs
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
