"""Compute the golden results: `python -m tests.golden.compute FOLDER` prints them as JSON.

Each result is a digest of what the package computes from fixed seeds: the weights that each criterion keeps, the arrays
of an iterative run and a fit of AutoS to it. `ENVIRONMENT` makes PyTorch round alike on any x86 processor.
"""

import contextlib
import hashlib
import json
import sys
import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import autosparse
from autosparse.config import SHIPPED
from autosparse.criteria.table import CRITERIA, LOOK_AHEAD
from autosparse.networks.gpt import GPT
from autosparse.store import TripleStore
from tests.conftest import run_script

ENVIRONMENT = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "OMP_NUM_THREADS": "1"}
SPARSITIES = (0.9, 0.99)
STEPS = 5

Batches = list[tuple[Tensor, Tensor]]


def masks() -> dict[str, str]:
    """Return a digest of the kept weights by network, criterion and sparsity."""
    results = {}
    for network, (model, batches) in networks().items():
        for criterion in (*SHIPPED, *CRITERIA, *LOOK_AHEAD):
            looks_ahead = criterion == "lookahead" or criterion in LOOK_AHEAD
            options = {"steps_per_round": STEPS, "optimizer": adam} if looks_ahead else {}
            for sparsity in SPARSITIES:
                try:
                    mask = autosparse.prune(model, batches, sparsity=sparsity, criterion=criterion, **options)
                    result = digest(mask.kept)
                except autosparse.UserError:
                    result = "refused"
                results[f"{network} {criterion} {sparsity}"] = result
    return results


def networks() -> dict[str, tuple[nn.Module, Batches]]:
    """Return each network, with two batches of 30 images or 10 texts."""
    torch.manual_seed(0)
    lenet = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 24), nn.ReLU(), nn.Linear(24, 10))
    convolutional = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )
    gpt = GPT(vocabulary=32, context=12, layers=2, heads=2, width=16)
    images = [(torch.randn(30, 1, 8, 8), torch.arange(30) % 10) for _ in range(2)]
    texts = [(ids[:, :-1], ids[:, 1:]) for ids in torch.randint(32, (2, 10, 13))]
    return {"lenet": (lenet, images), "convolutional": (convolutional, images), "gpt": (gpt, texts)}


def adam(parameters: object) -> torch.optim.Optimizer:
    """Return the optimizer of the probes."""
    return torch.optim.Adam(parameters, lr=1e-3)  # type: ignore[arg-type]  # as given to OptimizerFactory


def runs(folder: Path) -> dict[str, str]:
    """Return digests of the arrays of an iterative run, and of an AutoS that is fitted to it."""
    irp = ("--dataset", "digits", "--iterations", "3", "--epochs", "1", "--probe-steps", "2")
    fit = ("--name", "golden", "--max-steps", "30")
    with contextlib.redirect_stdout(sys.stderr):
        assert run_script("irp", *irp, "--output", str(folder), "--cluster", "inline") == 0
        (run,) = (folder / "irp").iterdir()
        assert run_script("fit", "--runs", str(run), *fit, "--output", str(folder), "--cluster", "inline") == 0
    store = TripleStore.open(run)
    arrays = {name: torch.from_numpy(getattr(store, name)()) for name in ("theta", "grad", "survival")}
    fitted = load_file(next((folder / "autos").glob("*/autos.safetensors")))
    return {
        **{f"irp {name}": digest(values) for name, values in arrays.items()},
        "irp history": hashlib.sha256((run / "history.json").read_bytes()).hexdigest()[:16],
        "fit": digest(*(fitted[name] for name in sorted(fitted))),
    }


def digest(*tensors: Tensor) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of the tensors' bytes."""
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(tensor.contiguous().numpy().tobytes())
    return total.hexdigest()[:16]


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.backends.mkldnn.enabled = False
    warnings.simplefilter("ignore")
    print(json.dumps({**masks(), **runs(Path(sys.argv[1]))}, indent=1))
