"""The page of the commands lists every option of every command, and the drawings are those that their scripts make."""

import runpy
from collections.abc import Iterator

import pytest

from autosparse import cli
from docs.site.commands import HELP, with_options
from tests.conftest import ROOT
from tests.docs.test_commands import FLAG, SUBCOMMANDS, every_flag

PAGE = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")


def commands() -> Iterator[str]:
    """The commands and their subcommands, as the page names them."""
    for name in cli.COMMANDS:
        yield f"{name} --help"
        if name != "store":
            yield from (f"{name} {action} --help" for action in SUBCOMMANDS.get(name, ()))


def test_page_of_the_commands_has_every_command() -> None:
    named = [" ".join(groups) for groups in HELP.findall(PAGE)]
    assert {*named} >= {*commands()}


def test_page_of_the_commands_lists_every_option_with_its_help() -> None:
    page = with_options(PAGE)
    assert not HELP.search(page)
    listed = [line for line in page.splitlines() if line.startswith("- `")]
    names = {flag for line in listed for flag in FLAG.findall(line.partition("`: ")[0])}
    assert every_flag() - names == {"--help", "--help-cluster", "--config", "--no-"}
    assert all(len(line.partition("`: ")[2]) > 10 for line in listed)


@pytest.mark.parametrize("script", ["draw_order", "draw_concepts"])
def test_drawing_is_the_one_that_its_script_makes(script: str) -> None:
    drawing = runpy.run_path(str(ROOT / "docs" / "site" / f"{script}.py"))
    assert drawing["draw"]() == drawing["PATH"].read_text(encoding="utf-8"), f"python -m docs.site.{script} draws it"
