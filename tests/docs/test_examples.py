"""Examples of docstrings on the page of the API run, and every object there has one, or the page has it."""

import doctest
import inspect
import re
from pathlib import Path
from pkgutil import resolve_name

import pytest

from tests.conftest import ROOT, Patch
from tests.docs.test_blocks import given

PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
NAMES = re.findall(r"^::: (\S+)$", PAGE, re.MULTILINE)
BLOCKS = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
ON_OTHER_PAGES = {"Task": "tasks", "HoldMask": "pruning"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_object_of_the_api_has_an_example_that_runs(
    name: str, irp_run: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs/irp").mkdir(parents=True)
    Path("runs/irp/NAME").symlink_to(irp_run)
    short = name.rpartition(".")[2]
    namespace = given() | {"autosparse": resolve_name("autosparse")}
    text = inspect.getdoc(resolve_name(name.replace(".", ":", 1) if name.count(".") == 1 else name)) or ""
    test = doctest.DocTestParser().get_doctest(text, namespace, name, None, None)
    assert test.examples or short in BLOCKS or short in ON_OTHER_PAGES
    report = list[str]()
    doctest.DocTestRunner().run(test, out=report.append)
    assert not report, "".join(report)
