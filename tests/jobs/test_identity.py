"""The name of a run's folder and its configuration, which tell it from other runs."""

import json
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import yaml

from autosparse.autos import BACKBONES
from autosparse.autos.features import FEATURES
from autosparse.cluster.records import config_difference, write_config
from autosparse.config import PRETRAINED, Backbone, Feature, FitConfig, IRPConfig, IRPCriterion, PruneConfig
from autosparse.criteria import Chooser, make_criterion
from autosparse.criteria.table import TABLE
from autosparse.errors import UserError
from autosparse.jobs import IRPRun, PruneRun
from autosparse.jobs.base import TrainingOptions
from autosparse.store.order import Order
from autosparse.tasks import Images
from autosparse.training import Recipe

DIGITS = TrainingOptions(task=Images(source="digits"))


def test_folder_is_named_by_network_data_criterion_and_sparsity(tmp_path: Path) -> None:
    setting = TrainingOptions(task=Images(network="resnet18", source="cifar10"))
    config = PruneConfig(sparsity=0.985, seed=3)
    run = PruneRun(output=tmp_path, setting=setting, config=config)
    assert run.folder == tmp_path / "prune" / "resnet18_cifar10_snip_98.5_s3"


def test_identity_has_the_resolved_recipe_not_its_options() -> None:
    one, other = (IRPRun(setting=each).identity() for each in (DIGITS, replace(DIGITS, epochs=60, precision="bf16")))
    assert (one["recipe"]["epochs"], other["recipe"]["epochs"], other["recipe"]["precision"]) == (30, 60, "bf16")
    assert one["validation"] == 0.1
    assert one["order_seed"] == 0
    assert Images(network="resnet18", source="cifar10", recipe_name="paper").validation_fraction == 0.0
    assert IRPRun(setting=replace(DIGITS, epochs=30)).identity() == one  # the same in other words
    assert "output" not in one


def test_config_names_the_option_that_differs(tmp_path: Path) -> None:
    run = IRPRun(setting=DIGITS, output=tmp_path)
    write_config(run)
    (run.folder / "history.json").write_text("[]")  # there is output
    config = yaml.safe_load((run.folder / "config.yaml").read_text())
    assert config.pop("options") == run.options()  # which are not part of the identity
    assert config == run.identity()
    assert config_difference(run) is None
    nested = replace(run, setting=replace(DIGITS, channels_last=True))
    assert "is a run with channels_last = False, asked for is True" in (config_difference(nested) or "")
    rewound = replace(run, config=IRPConfig(rewind_epoch=1))
    assert "_rewind1_" in rewound.folder.name
    difference = config_difference(run, submitted=rewound.identity())
    assert "is a run with rewind_epoch = 1, asked for is 0" in (difference or "")


def test_batch_norm_is_part_of_a_run_where_the_criterion_has_a_mode(tmp_path: Path) -> None:
    run = PruneRun(setting=DIGITS, output=tmp_path, config=PruneConfig(criterion="grasp"))
    other = replace(run, config=replace(run.config, batch_norm="running"))
    assert (run.label, other.label) == ("grasp", "grasp-running")
    assert other.folder.name == "lenet-300-100_digits_grasp-running_95_s0"
    assert other.identity()["batch_norm"] == "running"
    other.check()
    for criterion in ("synflow", PRETRAINED, "runs/autos/mine", "mine.py:mine"):
        with pytest.raises(UserError, match=f"^{criterion} has no batch norm of mode running; snip, .* have$"):
            replace(other, config=PruneConfig(criterion=criterion, batch_norm="running")).check()


def test_options_of_the_authors_protocol_are_part_of_a_run_and_of_its_name(tmp_path: Path) -> None:
    task = Images(source="digits", init="torch")
    config = IRPConfig(batch_norm="running", prune_first=True, rewind="weights")
    run, plain = (IRPRun(output=tmp_path, setting=setting) for setting in (TrainingOptions(task=task), DIGITS))
    run = replace(run, config=config)
    assert run.folder.name == "lenet-300-100-torch_digits_snip-running_n20_rewind-weights_prune-first_s0"
    for options, name in (
        ({}, "snip_n20_s0"),
        ({"final_sparsity": 0.985}, "snip_n20-98.5_s0"),
        ({"schedule": "linear", "final_sparsity": 0.9}, "snip_n20-linear-90_s0"),
        ({"schedule": "constant", "rate": 0.8}, "snip_n20-constant-80_s0"),
    ):
        assert replace(plain, config=IRPConfig(**options)).folder.name == f"lenet-300-100_digits_{name}"
    other = {"init": "torch", "batch_norm": "running", "prune_first": True, "rewind": "weights"}
    assert other.items() <= run.identity().items()
    assert "init" not in plain.identity()
    for wrong in (replace(task, fan="fan_out"), replace(task, network="autosparse.networks.lenet:lenet_500_300")):
        with pytest.raises(UserError, match="init torch is for networks by name, and has no fan"):
            wrong.check()
    with pytest.raises(UserError, match="fan fan_out is for networks by name"):
        replace(wrong, init="kaiming", fan="fan_out").check()


def test_initial_weights_are_the_same_only_with_the_same_init_and_fan(tmp_path: Path) -> None:
    labels = {"network": "lenet-300-100", "seed": 0, "fan": "fan_in"}
    (tmp_path / "autos.json").write_text(json.dumps({"card": {"runs": [labels]}}))
    run = PruneRun(setting=DIGITS, config=PruneConfig(criterion=str(tmp_path)))
    assert run._same_initialization()
    for other in (Images(source="digits", init="torch"), Images(source="digits", fan="fan_out")):
        assert not replace(run, setting=TrainingOptions(task=other))._same_initialization()
    (tmp_path / "autos.json").write_text(json.dumps({"card": {"runs": [labels | {"network": "tiny.py:make"}]}}))
    (tmp_path / "tiny.py").write_text("def make(shape, classes): ...\n")
    own = Images(source="digits", network=f"{tmp_path}/tiny.py:make")
    assert replace(run, setting=TrainingOptions(task=own))._same_initialization()


def test_choices_of_options_match_the_tables() -> None:
    assert tuple(row.name for row in TABLE if row.irp) == get_args(IRPCriterion)
    assert not any(isinstance(make_criterion(name), Chooser) for name in get_args(IRPCriterion))
    assert tuple(BACKBONES) == get_args(Backbone)
    assert tuple(FEATURES) == get_args(Feature)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: IRPConfig(criterion="synflow"), "unknown criterion 'synflow'; valid: random, magnitude, snip, grasp"),
        (lambda: IRPConfig(iterations="3"), "iterations must be a whole number, got '3'"),
        (lambda: IRPConfig(seed=None), "seed must be a whole number, got None"),
        (lambda: IRPConfig(iterations=0), "iterations must be at least 1, got 0"),
        (lambda: IRPConfig(rate=1.0), "rate must be above 0 and below 1, got 1.0"),
        (lambda: IRPConfig(order_seed=-1), r"order seed must be in 0..4294967295, got -1"),
        (lambda: FitConfig(learning_rate=float("nan")), "learning rate must be positive, got nan"),
        (lambda: FitConfig(features="theta"), "unknown features 't'; valid: theta, grad"),
        (lambda: FitConfig(features=("theta", "x")), "unknown features 'x'; valid: theta, grad, flow, probe-gradient"),
        (lambda: FitConfig(features=()), "at least one feature, and each once"),
        (lambda: FitConfig(features=("theta", "theta")), "at least one feature, and each once"),
        (lambda: FitConfig(features=("grad", "probe-theta")), "uses probe-gradient instead of grad"),
        (lambda: IRPConfig(probe_steps=1, probe_columns=("probe-root",)), "unknown probe columns 'probe-root'; did"),
        (lambda: IRPConfig(probe_columns=("probe-theta",)), "probe columns do nothing without --probe-steps"),
        (lambda: IRPConfig(probe_steps=1, probe_columns=()), "at least one, and each once"),
        (lambda: IRPConfig(probe_steps=1, rewind_epoch=1), "does not go with --rewind-epoch"),
        (lambda: IRPConfig(probe_steps=1, rewind="weights"), "does not go with --rewind weights"),
        (lambda: FitConfig(anneal="no"), "unknown anneal 'no'; valid: True, False"),
        (lambda: Recipe(1, "AdamW", 1e-3), "unknown optimizer 'AdamW'; did you mean adamw\\? valid: sgd, nesterov, "),
        (lambda: Recipe(1, "sgd", 0.1, clip=float("inf")), "clip must be at least 0, got inf"),
        (lambda: Images(recipe_name="shrt"), "unknown recipe name 'shrt'; did you mean short"),
        (lambda: Order((), (), 1, part="heldout"), "unknown part 'heldout'; did you mean held-out"),
        (lambda: FitConfig(features=("theta", "grad", "flow"), transform="raw"), "raw is for fits to stored triples"),
        (lambda: FitConfig(features=("probe-theta",), transform="raw"), "raw is for fits to stored triples"),
        (lambda: FitConfig(transform="raw", rounds=3), "the transform raw is for fits to stored triples"),
        (lambda: FitConfig(rounds=3, samples=4096), "samples are for fits to stored triples"),
        (lambda: FitConfig(samples=15), "samples must be 0 or at least 1,024, got 15"),
        (lambda: FitConfig(memory="much"), "'much' is not a size of memory; write it like 512MB"),
        (lambda: IRPConfig(rate=0.5), "rate does nothing with the geometric schedule"),
        (lambda: IRPConfig(schedule="constant", final_sparsity=0.9), "final sparsity does nothing with the constant"),
        (lambda: FitConfig(weights=(1.0, -1.0)), "weights must be positive, got 1.0 -1.0"),
    ],
)
def test_value_outside_its_type_is_refused(wrong: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        wrong()  # type: ignore[operator]
