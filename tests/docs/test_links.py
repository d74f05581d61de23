"""Links between the pages lead to files and headings that are there: on GitHub, and from README on a package index."""

import re
import runpy
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGES = [*ROOT.glob("*.md")]
PAGES += [
    page for room in ("docs", "slurm", "examples", "benchmarks", "autosparse") for page in (ROOT / room).rglob("*.md")
]
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return FENCED.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """The headings of a page, as GitHub calls them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_to_files_and_headings(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        if not link.startswith(("http://", "https://")):
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), f"{link} is not there"
            assert not anchor or anchor in anchors(target), f"{target} has no heading {anchor}"


def test_readme_is_a_page_and_its_links_are_addresses_on_a_package_index() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 110
    absolute = runpy.run_path(str(ROOT / ".ci" / "absolute_links.py"))["absolute"]
    text = absolute(readme, "https://github.com/owner/name", "v1")
    links = LINK.findall(text)
    assert len(links) == len(LINK.findall(readme)) > 5
    assert all(link.startswith("https://") for link in links)
    assert "](https://github.com/owner/name/blob/v1/docs/tutorial.md)" in text
    assert re.search(r"!\[[^]]*\]\(https://github.com/owner/name/raw/v1/docs/\w+\.(png|svg)\)", text)


def test_the_tests_that_a_page_names_are_there() -> None:
    named = re.findall(r"\b((?:[a-z0-9]+/)?test_[a-z0-9_]+)", (ROOT / "docs" / "clusters.md").read_text())
    assert len(named) > 50
    assert [name for name in named if not (ROOT / "tests" / f"{name}.py").is_file()] == []
