"""Every block of Python in the documents runs, page by page, in an empty folder, on small networks and batches."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from sybil import Document
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser
from torch import nn

from tests.conftest import ROOT, Capture, Patch, Script

PAGES = [
    page
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
    if "```python" in page.read_text(encoding="utf-8") and page.stem != "faq"  # see test_faq.py
]


def files_of(page: Path) -> dict[str, str]:
    """The blocks of a page that are a file, `# NAME.py` their first line."""
    regions = CodeBlockParser("python", lambda _: None)(Document(page.read_text(encoding="utf-8"), str(page)))
    blocks = {region.parsed.partition("\n")[0].removeprefix("# "): region.parsed for region in regions}
    return {first: block for first, block in blocks.items() if first.endswith(".py")}


def given() -> dict[str, Any]:
    """Return the names that blocks may use: a network, batches for it, the same from a loader."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 10))
    batches = [(torch.randn(16, 20), torch.randint(10, (16,))) for _ in range(4)]
    loader = torch.utils.data.DataLoader([pair for batch in batches for pair in zip(*batch, strict=True)], 16)
    return {"__name__": "a_page", "torch": torch, "model": model, "batches": batches, "loader": loader}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_blocks_run(page: Path, irp_run: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    (tmp_path / "runs" / "irp").mkdir(parents=True)
    (tmp_path / "runs" / "irp" / "NAME").symlink_to(irp_run)
    monkeypatch.chdir(tmp_path)
    document = Document.parse(str(page), PythonCodeBlockParser())
    examples = list(document.examples())
    assert len(examples) == page.read_text().count("```python")
    for example in examples:
        document.namespace.update(given())
        example.evaluate()


def test_first_block_of_the_readme_runs_alone_in_an_empty_folder(tmp_path: Path) -> None:
    first = (ROOT / "README.md").read_text(encoding="utf-8").split("```python\n")[1].partition("```")[0]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", first], cwd=tmp_path, env=environment, check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mask.safetensors"]


def test_the_task_of_the_page_is_a_file_that_is_pruned(
    script: Script, tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    for page in ("tasks", "own_criterion"):
        for name, text in files_of(ROOT / "docs" / f"{page}.md").items():
            Path(f"page_{name}").write_text(text)  # One process has one module of a name.
    task = ("--task", "page_mine.py:Mine", "--width", "64", "--epochs", "1")
    assert script("irp", *task, "--iterations", "1") == 0
    assert Path(capsys.readouterr().out.strip(), "triples.zarr").is_dir()
    own = ("--criteria", "page_flow.py:score", "--sparsities", "0.9", "--seeds", "1")
    assert script("prune", *task, *own) == 0
    assert Path(capsys.readouterr().out.strip(), "mask.safetensors").is_file()
