"""Layers of the package, and one-line errors of `autosparse.prune`."""

import ast
import importlib
from pathlib import Path

import pytest
import torch
from torch import nn

import autosparse
from autosparse.tasks import Data
from tests.conftest import ROOT

# ground first; a room imports from itself and from lower layers only
LAYERS = [
    {"errors", "lazy"},
    {"options"},
    {"files", "command", "distributed", "generators", "metrics", "registry", "seeds", "sizes"},
    {"config", "tensors"},
    {"networks", "pruning", "cluster", "page"},
    {"criteria", "store", "integrations"},
    {"tasks"},
    {"training"},
    {"lookahead"},
    {"irp", "autos"},
    {"api"},
    {"jobs"},
    {"study"},
    {"cli"},
]
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}


def room_of(path: Path) -> str:
    return path.relative_to(ROOT / "autosparse").parts[0].removesuffix(".py")


def imports(node: ast.AST) -> set[str]:
    """What of the package is imported below a node of the syntax tree: modules, and names out of modules."""
    found = set[str]()
    for each in ast.walk(node):
        if isinstance(each, ast.Import):
            found |= {alias.name for alias in each.names}
        elif isinstance(each, ast.ImportFrom):
            found |= {f"{each.module}.{alias.name}" for alias in each.names}
    return {name for name in found if name.startswith("autosparse.")}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The nodes of a circle of a directed graph, the first of them again at the end; none if there is no circle."""
    done = set[str]()

    def search(path: list[str]) -> list[str]:
        for other in sorted(graph[path[-1]] - done):
            if other in path:
                return [*path[path.index(other) :], other]
            if found := search([*path, other]):
                return found
        done.add(path[-1])
        return []

    return next((found for node in sorted(graph) if (found := search([node]))), [])


@pytest.mark.parametrize("room", sorted(LEVEL))
def test_a_room_imports_only_from_lower_layers(room: str) -> None:
    files = [path for path in (ROOT / "autosparse").rglob("*.py") if room_of(path) == room]
    assert files
    for path in files:
        for name in imports(ast.parse(path.read_text())):
            other = name.split(".")[1]
            assert other == room or LEVEL[other] < LEVEL[room], f"{path} imports {name}"


def test_modules_do_not_import_in_circles() -> None:
    """Neither when they are imported nor for their types; an import within a function runs later, and may."""
    trees = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): ast.parse(path.read_text())
        for path in (ROOT / "autosparse").rglob("*.py")
    }
    graph = dict[str, set[str]]()
    for module, tree in trees.items():
        top = [node for node in tree.body if not isinstance(node, ast.FunctionDef | ast.ClassDef)]
        names = set[str]().union(*map(imports, top))
        graph[module] = {name if name in trees else name.rpartition(".")[0] for name in names} & set(trees)
    assert not circle(graph)


def test_a_circle_is_found() -> None:
    assert circle({"a": {"b", "d"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["b", "c", "b"]
    assert circle({"a": {"b", "d"}, "b": {"d"}, "d": set()}) == []


def test_every_room_is_in_the_plan() -> None:
    rooms = {room_of(path) for path in (ROOT / "autosparse").rglob("*.py")} - {"__init__"}
    assert rooms == set(LEVEL)


def test_names_that_are_imported_late_are_listed() -> None:
    for package in (autosparse, importlib.import_module("autosparse.pruning")):
        assert {*package.__all__, "__doc__", "__name__"} <= {*dir(package)}
        assert [*dir(package)] == sorted({*dir(package)})


@pytest.mark.parametrize("criterion", ["magnitude", "snip", "synflow", "grasp"])
def test_prune_keeps_exactly_and_changes_nothing(criterion: str, convolutional: nn.Module, data: Data) -> None:
    before = {name: value.clone() for name, value in convolutional.state_dict().items()}
    mask = autosparse.prune(convolutional, data.scoring(64, limit=1), criterion=criterion, sparsity=0.95)
    assert mask.count == round(0.05 * mask.layout.size)
    assert convolutional.training
    assert all(p.grad is None for p in convolutional.parameters())
    assert all(torch.equal(value, before[name]) for name, value in convolutional.state_dict().items())
    mask.apply_(convolutional)
    assert sum((convolutional.get_parameter(layer.name) != 0).sum() for layer in mask.layout.layers) <= mask.count


def test_prune_warns_of_empty_layers(model: nn.Module, data: Data) -> None:
    with pytest.warns(UserWarning, match=r"nothing is kept of layers fc1\.weight, fc2\.weight;"):
        autosparse.prune(
            model, [], criterion=lambda model, mask, scoring: torch.arange(mask.layout.size).float(), sparsity=0.99
        )


@pytest.mark.parametrize("sparsity", [0.0, 95, float("nan")])
def test_prune_refuses_sparsities_outside_0_1(sparsity: float, model: nn.Module) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        autosparse.prune(model, [], sparsity=sparsity)


def test_prune_refuses_no_weights_nan_weights_and_no_batches(model: nn.Module) -> None:
    with pytest.raises(ValueError, match="no prunable weights"):
        autosparse.prune(nn.BatchNorm2d(3), [])
    with pytest.raises(ValueError, match="at least one batch"):
        autosparse.prune(model, [], criterion="snip")
    with torch.no_grad():
        model.get_parameter("fc2.weight")[3, 5] = torch.nan
    with pytest.raises(ValueError, match=r"1 scores are NaN, the first in layer fc2\.weight"):
        autosparse.prune(model, [], criterion="magnitude")
