"""A small real network, real digits and one real run of IRP, shared by all tests."""

import os
import runpy
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from autosparse import networks, registry
from autosparse.autos import BACKBONES
from autosparse.tasks import Data
from autosparse.tasks.arrays import ImageArrays, load
from tests.commands import Commands
from tests.models import digits, small

# Tests use the CPU, with the same number of threads on any machine. tests/test_gpu.py makes the GPUs visible again, by
# a variable that the processes of pytest-xdist inherit.
GPUS = os.environ.setdefault("AUTOSPARSE_TEST_GPUS", os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["AUTOSPARSE_SLURM"] = ""  # no profile of the site
torch.set_num_threads(1)

ROOT = Path(__file__).parents[1]
SMALL_IRP = ("--dataset", "digits", "--iterations", "4", "--epochs", "2")
RUN = "lenet-300-100_digits_snip_n4_s0"

Script = Callable[..., int]
Patch = pytest.MonkeyPatch
Capture = pytest.CaptureFixture[str]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regenerate", action="store_true", help="write golden files anew instead of comparing")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Run the tests of a file in one process of pytest-xdist, since they share fixtures, and so all tests of Slurm."""
    item.add_marker(pytest.mark.xdist_group("slurm" if item.path.parent.name == "slurm" else str(item.path)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the longest tests: Slurm, which mostly waits, and the benchmarks."""
    items.sort(key=lambda item: (item.path.parent.name != "slurm", item.path.name != "test_benchmarks.py"))


@pytest.fixture(autouse=True)
def _denormals() -> Iterator[None]:
    """Runs within the process of the tests flush denormal numbers; other tests need them."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(autouse=True)
def restore_threads(monkeypatch: Patch) -> Iterator[None]:
    """Undo the number of threads that a job in this process sets: sums in another order have other bits."""
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ["OMP_NUM_THREADS"])
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runtime")


@pytest.fixture(autouse=True)
def keep_temporary_files_in_one_folder(runtime: Path, monkeypatch: Patch) -> None:
    monkeypatch.setenv("TMPDIR", str(runtime))


@pytest.fixture(scope="session")
def images() -> ImageArrays:
    return load("digits")


@pytest.fixture(scope="session")
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


@pytest.fixture
def data() -> Data:
    return digits()


@pytest.fixture
def model(images: ImageArrays) -> nn.Module:
    return networks.build("lenet-300-100", images.shape, images.classes, seed=0)


@pytest.fixture
def convolutional() -> nn.Module:
    """A network with batch norm and dropout, for images of 8 x 8."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.Linear(8 * 64, 10)
    )


@pytest.fixture(scope="module")
def small_mlp() -> Iterator[None]:
    """The mlp of AutoS is a small one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, "mlp", small)
        yield


@pytest.fixture
def commands(tmp_path_factory: pytest.TempPathFactory, monkeypatch: Patch) -> Commands:
    """Slurm's commands, first on PATH."""
    folder = tmp_path_factory.mktemp("bin")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return Commands(folder)


def forget_files() -> None:
    """Unload the user's files, as a new process has none."""
    for name in registry._LOADED:
        del sys.modules[name]
    registry._LOADED.clear()
    registry.FILES.clear()


def run_script(name: str, *arguments: str) -> int:
    """Run a launch script in this process, which loads the user's files anew; returns its exit code."""
    forget_files()
    argv = sys.argv
    sys.argv = [f"launch/{name}.py", *map(str, arguments)]
    try:
        runpy.run_path(str(ROOT / "launch" / f"{name}.py"), run_name="__main__")
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = argv
    return 0


@pytest.fixture
def script() -> Script:
    return run_script


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of one complete run of IRP; not to be changed."""
    output = tmp_path_factory.mktemp("finished")
    assert run_script("irp", *SMALL_IRP, "--output", str(output)) == 0
    return output


@pytest.fixture(scope="session")
def irp_run(finished: Path) -> Path:
    return finished / "irp" / RUN


def has_compiler() -> bool:
    """Return True if `torch.compile` finds what it needs on a CPU: a C++ compiler and Python's headers."""
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    return shutil.which(os.environ.get("CXX", "g++")) is not None and headers.is_file()


def tree(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder, by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
