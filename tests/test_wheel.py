"""An install without a clone: the wheel, in an environment of its own, in an empty folder."""

import os
import shutil
import site
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel, beside the libraries that are installed already; its folder of programs."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "results", folder / "results")
    shutil.copytree(ROOT / "autosparse", folder / "autosparse", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder / "dist", folder]
    subprocess.run([*pip, *build], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
    (packages,) = (folder / "env").glob("lib/python*/site-packages")
    # a line of a .pth file adds a folder, but not that folder's own .pth files: the checkout stays out
    (packages / "libraries.pth").write_text("\n".join(site.getsitepackages()))
    (wheel,) = (folder / "dist").iterdir()
    programs = folder / "env" / "bin"
    subprocess.run([*pip, "--python", programs / "python", "install", "--no-deps", "--no-index", wheel], check=True)
    return programs


def called(environment: Path, folder: Path, *command: str) -> str:
    return done(environment, folder, *command).stdout.strip()


def done(environment: Path, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    found = subprocess.run(
        [environment / command[0], *command[1:]], cwd=folder, env=clean, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    return found


def test_the_demo_runs_from_the_wheel_in_an_empty_folder(environment: Path, tmp_path: Path) -> None:
    where = called(environment, tmp_path, "python", "-c", "import autosparse; print(autosparse.__file__)")
    assert Path(where).is_relative_to(environment.parent)
    assert called(environment, tmp_path, "autosparse").startswith("usage: autosparse COMMAND")
    assert "gmp-ticket | " in called(environment, tmp_path, "autosparse", "board", "show")
    demo = done(environment, tmp_path, "autosparse", "demo", "--scale", "smoke", "--cluster", "inline")
    folders = demo.stdout.splitlines()
    said = demo.stderr.splitlines()
    assert said[-2] == f"the report: {folders[-1]}/index.html"
    assert {"random", "gmp", "gmp-x2"} <= {line.split()[0] for line in said if line.strip()}
    assert (tmp_path / folders[-1] / "index.html").is_file()
    pruned = next(folder for folder in folders if "/prune/" in folder)
    again = called(environment, tmp_path, "autosparse", "prune", "--config", f"{pruned}/config.yaml")
    assert again == pruned
    assert '"commit": null' in (tmp_path / pruned / "environment.json").read_text()
    shown = "import importlib.metadata as m, autosparse as a; print(m.version('autosparse') == a.__version__)"
    assert called(environment, tmp_path, "python", "-c", shown) == "True"
