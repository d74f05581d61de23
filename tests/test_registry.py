"""Objects by name, and the files that their names refer to."""

from pathlib import Path

import pytest

from autosparse import registry
from autosparse.errors import UserError
from tests.conftest import Patch


def test_digest_of_a_module_is_that_of_what_was_imported(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "own_criteria.py"
    module.write_text("def score(): ...\n")
    digest = registry.digest_of("own_criteria:score")
    module.write_text("def score(): return 1\n")
    assert registry.digest_of("own_criteria:score") == digest
    assert registry.source_of("own_criteria:score") == module


def test_module_that_fails_raises_in_one_line(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_criteria.py").write_text("def score(:\n")
    with pytest.raises(UserError, match=r"'broken_criteria' of this criterion cannot be imported: SyntaxError: "):
        registry.resolve("broken_criteria:score", "criterion", {})
    with pytest.raises(UserError, match=r"cannot be imported: No module named 'absent_criteria'"):
        registry.resolve("absent_criteria:score", "criterion", {})
