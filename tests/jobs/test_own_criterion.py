"""A user's own criterion in `autosparse prune`, and its place in the report."""

from pathlib import Path

from autosparse.files import read_json
from autosparse.study import results
from tests.conftest import Capture, Script

SCORE = "    return mask.layout.flatten(mask.layout.weights(model)).abs().detach()\n"
CHANGE = """    for batch in scoring.batches:
        scoring.loss(model, batch).backward()
    for weight in model.parameters():
        weight.data.mul_(0.01)
"""


def test_a_class_as_criterion_is_refused(script: Script, tmp_path: Path, capsys: Capture) -> None:
    place = tmp_path / "kinds.py"
    place.write_text("class Mine:\n    def choose(self, model, mask, scoring, k):\n        return mask\n")
    assert script("prune", "--dataset", "digits", "--criteria", f"{place}:Mine", "--output", tmp_path) == 2
    assert f"error: the criterion {place}:Mine is a class; give an instance of it" in capsys.readouterr().err


def test_a_criterion_that_changes_the_network_trains_from_the_same_weights(script: Script, tmp_path: Path) -> None:
    for name, body in (("leaves", SCORE), ("changes", CHANGE + SCORE)):
        (tmp_path / f"{name}.py").write_text(f"def {name}(model, mask, scoring):\n{body}")
    criteria = [*(f"{tmp_path}/{name}.py:{name}" for name in ("leaves", "changes")), "magnitude"]
    where = ("--cluster", "inline", "--output", tmp_path)
    what = ("--dataset", "digits", "--epochs", "1", "--sparsities", "0.9", "--seeds", "1")
    assert script("prune", *what, "--criteria", *criteria, *where) == 0
    histories = [read_json(path)["history"] for path in sorted(tmp_path.rglob("result.json"))]
    assert len(histories) == 3
    assert histories[0] == histories[1] == histories[2]
    rows = results.load(tmp_path)
    assert {*rows["criterion"]} == {"leaves", "changes", "magnitude"}
    assert rows["recipe"].nunique() == 1  # One table compares them.


TRAIN = """    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for batch in scoring.batches:
        scoring.loss(model, batch).backward()
        optimizer.step()
"""


def test_steps_of_a_criterion_are_part_of_its_cost(script: Script, tmp_path: Path) -> None:
    (tmp_path / "probe.py").write_text(f"import torch\ndef probe(model, mask, scoring):\n{TRAIN}{SCORE}")
    what = ("--dataset", "digits", "--epochs", "1", "--sparsities", "0.9", "--seeds", "1")
    assert script("prune", *what, "--criteria", f"{tmp_path}/probe.py:probe", "--output", tmp_path) == 0
    path = next(tmp_path.rglob("result.json"))
    result = read_json(path)
    assert result["cost"] == 1 + result["ahead"]["steps"] / 10  # An epoch of digits has ten steps.
    path.unlink()  # The mask is read again.
    assert script("prune", *what, "--criteria", f"{tmp_path}/probe.py:probe", "--output", tmp_path) == 0
    assert read_json(path)["cost"] == result["cost"]
