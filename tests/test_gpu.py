"""Runs of every kind on a GPU; skipped where there is none."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from autosparse.store import TripleStore
from tests.conftest import GPUS, ROOT, RUN, SMALL_IRP

ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
if GPUS != "all":
    ENVIRONMENT["CUDA_VISIBLE_DEVICES"] = GPUS


def python(*arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


HAS_GPU = bool(GPUS) and torch.backends.cuda.is_built() and shutil.which("nvidia-smi")
pytestmark = pytest.mark.skipif(not HAS_GPU, reason="no GPU")


def test_runs_of_every_kind_on_a_gpu(irp_run: Path, tmp_path: Path) -> None:
    run = python("launch/irp.py", *SMALL_IRP, "--output", tmp_path)
    gpu, cpu = TripleStore.open(run), TripleStore.open(irp_run)
    assert gpu.problems() == []
    assert np.array_equal(gpu.theta(), cpu.theta())
    np.testing.assert_allclose(gpu.grad(), cpu.grad(), rtol=1e-3, atol=1e-6)
    histories = [json.loads((folder / "history.json").read_text()) for folder in (Path(run), irp_run)]
    assert histories[0][0]["test"] == pytest.approx(histories[1][0]["test"], abs=0.02)
    autos = python("launch/fit.py", "--runs", run, "--epochs", "1", "--output", tmp_path)
    options = ["--dataset", "digits", "--epochs", "2", "--sparsities", "0.9", "--precision", "bf16"]
    folders = python("launch/prune.py", *options, "--criteria", "random", "snip", autos, "--output", tmp_path)
    assert all((Path(folder) / "result.json").is_file() for folder in folders.splitlines())


def test_local_jobs_get_the_gpu(tmp_path: Path) -> None:
    python("launch/irp.py", *SMALL_IRP, "--cluster", "local", "--output", tmp_path)
    assert json.loads((tmp_path / "irp" / RUN / "environment.json").read_text())["gpus"]


def test_selection_is_the_same_on_cpu_and_gpu(tmp_path: Path) -> None:
    script = """
import torch
from autosparse.pruning import Layer, Layout, Mask, keep_top
layout = Layout((Layer("w", (100_000,), 0, 1, 1),))
scores = torch.randn(100_000, generator=torch.Generator().manual_seed(0)).round(decimals=2)
for k in (0, 1, 777, 50_000, 100_000):
    cpu = keep_top(scores, k, Mask.full(layout)).kept
    gpu = keep_top(scores.cuda(), k, Mask.full(layout, "cuda")).kept
    assert gpu.is_cuda and torch.equal(gpu.cpu(), cpu), k
"""
    python("-c", script)


def test_an_epoch_does_not_wait_for_the_gpu() -> None:
    script = """
import torch
from accelerate import Accelerator
from autosparse import networks
from autosparse.tasks.arrays import load
from autosparse.pruning import Layout, Mask
from autosparse.tasks import Data, Images
from autosparse.training import Recipe, train
images, accelerator, done = load("digits"), Accelerator(), 0
model = networks.build("resnet18", images.shape, images.classes).cuda()
layout = Layout.of(model)
mask = Mask(layout, torch.rand(layout.size, device="cuda") < 0.1)
recipe = Recipe(1, "nesterov", 0.01, augment=True, precision="bf16", channels_last=True)
def look(steps):
    global done
    done += steps
    torch.cuda.set_sync_debug_mode("error" if 0 < done < 11 else "default")  # of 11 steps
data = Data(Images(source="digits", validation=0.0), accelerator.device)
train(model, mask, data, recipe, accelerator, progress=look)
assert done == 11
"""
    python("-c", script)
