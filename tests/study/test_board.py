"""The board: statistics of paired seeds, what is run, and the page that the results make."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from autosparse.errors import UserError
from autosparse.study import board, board_page
from autosparse.study.statistics import Difference, corrected, paired
from tests.conftest import ROOT, Capture, Patch, Script, forget_files


def test_paired_difference_is_that_of_the_t_test() -> None:
    random = np.random.default_rng(0)
    first = pd.Series(random.normal(1.0, 1.0, 5), index=range(5))
    second = pd.Series(random.normal(0.0, 1.0, 6), index=range(6))  # Seed 5 has no partner.
    result = paired(first, second)
    differences = first.to_numpy() - second.to_numpy()[:5]
    half = stats.t.ppf(0.975, 4) * differences.std(ddof=1) / 5**0.5
    assert (result.mean, result.n) == (pytest.approx(differences.mean()), 5)
    assert (result.low, result.high) == pytest.approx((differences.mean() - half, differences.mean() + half))
    assert result.p == pytest.approx(stats.ttest_1samp(differences, 0.0).pvalue)
    assert paired(first, second, "lower").mean == pytest.approx(-differences.mean())


def test_one_seed_has_a_difference_and_no_p() -> None:
    result = paired(pd.Series([3.0]), pd.Series([2.0]))
    assert (result.mean, result.n) == (1.0, 1)
    assert np.isnan(result.p)
    assert np.isnan(corrected([result.p])[0])
    assert corrected([0.01, float("nan"), 0.04])[0] == pytest.approx(0.02)


def results(folder: Path, means: dict[str, float]) -> None:
    """Write results of three seeds at 95%, with the same small noise for every method but the last."""
    classes = {method.name: method.kind or None for method in (*board.METHODS, *board.DENSE)}
    rows = []
    for (k, (name, mean)), seed in itertools.product(enumerate(means.items()), (200, 201, 202)):
        noise = (seed - 201) * (0.001 if k % 2 else 0.0013)
        cost = 1 if " " not in name and classes[name] == board.BEFORE else 2
        row = {"method": name, "class": classes[name], "criterion": name, "options": "{}", "seed": seed, "cost": cost}
        row |= {
            "sparsity": 0.0 if name == "dense" else 0.95,
            "metric": "accuracy",
            "better": "higher",
            "test": mean + noise,
        }
        rows.append(row | dict.fromkeys(("epochs", "seconds", "data", "commit", "date", "hardware"), 0))
    folder.mkdir(exist_ok=True)
    pd.DataFrame(rows).to_csv(folder / "digits.csv", index=False)


def test_page_marks_the_best_and_what_is_on_par(tmp_path: Path) -> None:
    means = {"snip": 0.8, "synflow": 0.9, "magnitude": 0.9002, "ticket": 0.95, "synflow, twice as long": 0.91}
    results(tmp_path, means)
    lines = board_page.page(tmp_path, ["digits"]).splitlines()
    assert "| magnitude | **90.02** |" in lines
    assert any(line.startswith("| synflow | 90.00 (= -0.02 [") for line in lines)
    assert any(line.startswith("| snip | 80.00 (-10.02 [") for line in lines)
    once, many = lines[-2:]
    assert once.startswith(
        "- 95%, for one full training run under the mask: ticket is better than synflow, twice as long: +4.00"
    )
    assert many.startswith("- 95%, for many full training runs under the mask: ticket is better than magnitude: +4.98")


def test_sparsities_without_results_have_a_dash(tmp_path: Path, monkeypatch: Patch) -> None:
    results(tmp_path, {"ticket": 0.95, "synflow, twice as long": 0.91})
    monkeypatch.setitem(board.TRACKS, "digits", replace(board.TRACKS["digits"], sparsities=(0.9, 0.95)))
    lines = board_page.page(tmp_path, ["digits"]).splitlines()
    assert "| ticket | – | 95.00 |" in lines
    assert lines[-1].startswith("- 95%, for one full training run under the mask: ticket")


def test_picture_has_means_and_intervals_of_every_method(tmp_path: Path) -> None:
    results(tmp_path, {"snip": 0.8, "synflow": 0.9, "ticket": 0.95, "dense": 0.97})
    chart = board_page.picture(tmp_path, ["digits"], 0.95)
    points = {row["method"]: row for row in chart.rows if "method" in row}
    assert [*points] == ["synflow  90.00", "snip  80.00", "ticket  95.00"]
    half = stats.t.ppf(0.975, 2) * np.std([-0.1, 0.0, 0.1], ddof=1) / 3**0.5
    assert points["synflow  90.00"]["high"] == pytest.approx(90 + half)
    assert [row["dense"] for row in chart.rows if "dense" in row] == [pytest.approx(97)]
    with pytest.raises(UserError, match="no results at a sparsity of 90%"):
        board_page.picture(tmp_path, ["digits"], 0.9)


def test_fewer_seeds_than_others_have_their_number(tmp_path: Path, capsys: Capture) -> None:
    results(tmp_path, {"snip": 0.8, "synflow": 0.9})
    path = tmp_path / "digits.csv"
    rows = pd.read_csv(path)
    rows[(rows["method"] == "snip") | (rows["seed"] != 200)].to_csv(path, index=False)
    page = board_page.page(tmp_path, ["digits"])
    assert "mean of 3 paired seeds, or of n where n is given. The best of each group, of the methods with the" in page
    assert "| snip | **80.00** |" in page  # Two seeds of another method could be the two best ones.
    assert "| synflow | 90.05 (+9.99, too few seeds, n = 2) |" in page
    path.with_name("lenet.csv").write_text(path.read_text().replace("0.95", "0.98"))
    board_page.picture(tmp_path, ["digits", "lenet"], 0.98)
    assert capsys.readouterr().err == "not in the picture, without results at 98%: digits\n"


def test_method_stands_in_the_group_of_its_most_expensive_run(tmp_path: Path) -> None:
    results(tmp_path, {"snip": 0.8, "synflow": 0.9})
    path = tmp_path / "digits.csv"
    rows = pd.read_csv(path)
    trained = (rows["method"] == "snip") & (rows["seed"] == 202)
    rows = rows.astype({"cost": float})
    rows.loc[trained, ["class", "cost"]] = board.PROBE, 1.3
    rows.to_csv(path, index=False)
    page = board_page.page(tmp_path, ["digits"])
    assert page.count("| snip |") == 1
    assert "### A mask after one probe, cost 2\n\n| method | 95% |\n| --- | ---: |\n| snip |" in page


def test_one_seed_has_no_test_and_a_picture_without_dense(tmp_path: Path) -> None:
    results(tmp_path, {"snip": 0.8, "synflow": 0.9})
    path = tmp_path / "digits.csv"
    rows = pd.read_csv(path)
    rows[rows["seed"] == 200].to_csv(path, index=False)
    assert "| snip | 79.87 (-10.03, too few seeds) |" in board_page.page(tmp_path, ["digits"])
    assert not [row for row in board_page.picture(tmp_path, ["digits"], 0.95).rows if "dense" in row]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--picture", "board.pdf"], "a picture is a .png or an .svg file, got board.pdf"),
        (["--sparsity", "0.9"], "--sparsity is that of a picture; add --picture board.png"),
        (["--results", "missing"], "there is no folder missing"),
    ],
)
def test_options_of_show_that_would_do_nothing_raise(
    options: list[str], said: str, script: Script, capsys: Capture
) -> None:
    assert script("board", "show", *options) == 2
    assert said in capsys.readouterr().err


def test_command_runs_what_is_missing_and_enters_a_criterion(script: Script, tmp_path: Path, capsys: Capture) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text("def score(model, mask, scoring):\n    return mask.kept.float().cumsum(0)\n")
    where = ("--results", tmp_path / "results", "--output", tmp_path / "runs", "--cluster", "inline")
    run = ("board", "run", "--track", "digits", *where, "--criteria")
    assert script(*run, "magnitude") == 0
    assert script(*run, "magnitude", f"{mine}:score") == 0
    said = capsys.readouterr()
    assert said.err.count("6 runs, 0 complete, 6 to run") == 2
    rows = board.read(tmp_path / "results" / "digits.csv")
    assert rows["method"].value_counts().tolist() == [3] * 4
    assert rows.loc[rows["method"] == "magnitude", "test"].between(0.05, 1.0).all()
    step = "    torch.optim.SGD(model.parameters(), lr=0.1).step()\n"
    mine.write_text(f"import torch\ndef score(model, mask, scoring):\n{step}    return mask.kept.float().cumsum(0)\n")
    assert script(*run, f"{mine}:score") == 0
    rows = board.read(tmp_path / "results" / "digits.csv")
    assert len(rows) == 18
    probes = rows[rows["class"] == board.PROBE]  # It trains.
    assert sorted(probes["cost"]) == [1.1] * 3 + [2.1] * 3
    said = capsys.readouterr().out
    assert "### A mask after one probe, cost 2" in said
    assert "### A mask after one probe, cost 3" in said
    assert script(*run, "nobody") == 2
    assert "unknown criterion" in capsys.readouterr().err
    assert script(*run, "snip", "--seeds", "201") == 0
    rows = board.read(tmp_path / "results" / "digits.csv")
    assert rows.loc[rows["method"].str.startswith("snip"), "seed"].tolist() == [201, 201]
    assert script(*run, "snip", "--seeds", "7") == 2
    assert "the track has no seed 7; it has 200, 201, 202" in capsys.readouterr().err
    assert script(*run, "synflow", "--seeds", "201", "201") == 0
    rows = board.read(tmp_path / "results" / "digits.csv")
    assert rows.loc[rows["method"].str.startswith("synflow"), "seed"].tolist() == [201, 201]
    here = rows["data"][0]
    rows.assign(data="00001e10").to_csv(tmp_path / "results" / "digits.csv", index=False)
    assert script(*run, "random") == 2
    assert f"the results are of other digits data (00001e10) than those here ({here})" in capsys.readouterr().err
    assert script(*run, "snip", "--seeds", "201") == 0  # Nothing is missing, so nothing is compared.


def test_loss_has_four_decimals_and_less_is_better(tmp_path: Path) -> None:
    results(tmp_path, {"snip": 0.8, "synflow": 0.9})
    rows = pd.read_csv(tmp_path / "digits.csv").assign(metric="loss", better="lower")
    rows.to_csv(tmp_path / "digits.csv", index=False)
    lines = board_page.page(tmp_path, ["digits"]).splitlines()
    assert "| snip | **0.8000** |" in lines
    assert any(line.startswith("| synflow | 0.9000 (-0.1000 [-0.10") for line in lines)
    drawn = board_page.picture(tmp_path, ["digits"], 0.95).views.values()
    assert "test loss, lower is better: mean and 95% interval" in str([view.to_dict() for view in drawn])


def test_page_is_that_of_the_committed_results() -> None:
    written = (ROOT / "docs" / "board.md").read_text()
    assert written.endswith(board_page.page(ROOT / "results", list(board.TRACKS)))
    drawn = board_page.picture(ROOT / "results", list(board.TRACKS), 0.98)
    svg = (ROOT / "docs" / "board.svg").read_text()
    assert all(row["method"] in svg for row in drawn.rows if "method" in row)


def test_lines_that_are_not_runs_raise(tmp_path: Path) -> None:
    results(tmp_path, {"snip": 0.8, "synflow": 0.9})
    path = tmp_path / "digits.csv"
    header, *lines = path.read_text().splitlines()
    for extra, said in (
        ("<<<<<<< mine", "is not a file of results: its line 8 is incomplete"),
        (lines[1], "line 8 twice"),
    ):
        path.write_text("\n".join([header, *lines, extra]))
        with pytest.raises(UserError, match=said):
            board.read(path)


def test_run_of_another_configuration_is_not_entered(script: Script, tmp_path: Path, capsys: Capture) -> None:
    where = ("--results", tmp_path / "results", "--output", tmp_path / "runs", "--cluster", "inline")
    run = ("board", "run", "--track", "digits", *where, "--criteria", "magnitude", "--seeds", "201")
    assert script(*run) == 0
    (tmp_path / "results" / "digits.csv").unlink()
    for config in (tmp_path / "runs").rglob("config.yaml"):
        config.write_text(config.read_text().replace("  learning_rate: ", "  learning_rate: 1"))
    assert script(*run) == 2
    assert "is a run with learning_rate = 1" in capsys.readouterr().err
    assert not (tmp_path / "results" / "digits.csv").exists()


def test_damaged_run_keeps_no_other_from_the_results(script: Script, tmp_path: Path) -> None:
    where = ("--results", tmp_path / "results", "--output", tmp_path / "runs", "--cluster", "inline")
    run = ("board", "run", "--track", "digits", *where, "--criteria", "magnitude", "--seeds", "201", "202")
    assert script(*run) == 0
    (tmp_path / "results" / "digits.csv").unlink()
    for config in (tmp_path / "runs").rglob("*_s201/config.yaml"):
        config.write_text("{")
    assert script(*run) == 2
    assert board.read(tmp_path / "results" / "digits.csv")["seed"].tolist() == [202, 202]


def test_equal_results_are_on_par() -> None:
    same = pd.Series([0.5, 0.6, 0.7])
    assert paired(same, same) == Difference(0.0, 0.0, 0.0, 1.0, 3)
    assert np.isnan(paired(same[:2], same[:2] + 0.1).p)  # Two equal differences would have a p-value of 0.


@pytest.mark.parametrize("text", ["", "method,class\na,b\n", 'a,b\n"c,d'])
def test_damaged_results_raise(text: str, tmp_path: Path) -> None:
    (tmp_path / "digits.csv").write_text(text)
    with pytest.raises(UserError, match="is not a file of results"):
        board_page.page(tmp_path, ["digits"])


@pytest.mark.parametrize(
    "text",
    [
        "class Choose:\n    def choose(self, model, mask, scoring, k): ...\nmine = Choose()",
        "import torch\n@torch.no_grad()\ndef mine(model, mask, scoring): ...",
        "from functools import partial\nfrom autosparse.criteria.data_free import magnitude\nmine = partial(magnitude)",
        "from autosparse.criteria.rounds import Rounds\nmine = Rounds(print, rounds=5)",
    ],
    ids=["object", "decorated", "partial", "object of the package"],
)
def test_edited_criterion_has_rows_of_its_own(text: str, tmp_path: Path) -> None:
    names = []
    mine = tmp_path / "mine.py"
    for content in (text, f"# edited\n{text}"):
        mine.write_text(content)
        names += [method.name for method in board.methods([f"{mine}:mine", f"{tmp_path}/./mine.py:mine"])]
        forget_files()
    assert all(name.startswith("mine.py:mine (") for name in names)
    assert [len(names), len({*names})] == [8, 4]


def test_no_results_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="autosparse board run --track lenet makes some"):
        board_page.page(tmp_path, ["lenet"])
