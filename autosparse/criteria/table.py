"""The table of all criteria by name. A new criterion is one file and one row; this module does not import PyTorch."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Literal

from autosparse import registry
from autosparse.errors import UserError, unknown

if TYPE_CHECKING:
    from autosparse.criteria.base import Chooser, Criterion


@dataclass(frozen=True)
class Row:
    """A criterion by name.

    Attributes:
        name: name in `autosparse.prune(criterion=...)` and `autosparse prune --criteria`.
        place: `module:name`, below `autosparse`, of a function that scores or of a class that chooses; empty for saved
            networks and for methods that choose during training.
        source, data, when, trains, cost: columns of docs/criteria.md: the publication, the data it needs, when to use
            it, the training it needs, and the cost in full training runs, that of the pruned network included.
        stage: when it chooses: at initialization, after training ahead, or during training.
        rounds: number of `Rounds`; 0 for a criterion without them.
        options: options that the criterion is made with.
        seeded: whether it takes `seed=`.
        batch_norm: whether it takes `batch_norm=`, see `gradient.scoring_mode`.
        irp: whether IRP can use it: it scores at once, whatever the density, and does not train.
        ordered: whether its scores can be inverted: it does not choose layer by layer, or revive weights.
    """

    name: str
    place: str
    source: str
    data: str
    when: str
    _: KW_ONLY
    trains: str = "no"
    cost: str = "1"
    stage: Literal["initialization", "ahead", "training"] = "initialization"
    rounds: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    seeded: bool = False
    batch_norm: bool = False
    irp: bool = False
    ordered: bool = True

    def make(self, seed: int = 0, batch_norm: str = "batch", rounds: int | None = None) -> "Criterion | Chooser":
        """Return the criterion."""
        from functools import partial

        from autosparse.criteria.rounds import Rounds

        options = dict(self.options)
        if self.seeded:
            options["seed"] = seed
        if self.batch_norm and batch_norm != "batch":
            options["batch_norm"] = batch_norm
        criterion: Any = resolve_name(f"autosparse.{self.place}")
        if isinstance(criterion, type):
            criterion = criterion(**options)
        elif options:
            criterion = partial(criterion, **options)
        return Rounds(criterion, rounds or self.rounds) if self.rounds else criterion


_K_STEPS: dict[str, Any] = {"stage": "ahead", "trains": "K steps in each of five rounds", "cost": "2"}
_DYNAMIC: dict[str, Any] = {"stage": "training", "trains": "it is the training", "cost": "1 or 2"}
_CARD = "../autosparse/autos/pretrained"
# fmt: off
TABLE = (
    Row("pretrained", "", f"this package: AutoS, fitted to small networks ([card]({_CARD}/README.md))", "yes",
        "a mask before any training, of fully connected or convolutional networks"),
    Row("lookahead", "",
        f"this package: AutoS of the weight before and after K steps ([card]({_CARD}/lookahead/README.md))", "yes",
        "a mask of a convolutional network that must exist before the training, or that serves several training runs",
        **_K_STEPS),
    Row("random", "criteria.data_free:random", "", "no", "the floor of every comparison", seeded=True, irp=True),
    Row("magnitude", "criteria.data_free:magnitude", "Han et al. 2015", "no", "free: it needs no data",
        irp=True),
    Row("snip", "criteria.snip:snip", "Lee et al. 2019", "a batch or more", "the usual baseline",
        irp=True, batch_norm=True),
    Row("grasp", "criteria.grasp:grasp", "Wang et al. 2020", "yes, twice the gradient", "the paper's baseline",
        irp=True, batch_norm=True),
    Row("prospr", "criteria.prospr:prospr", "Alizadeh et al. 2022", "yes",
        "exact, but it keeps the activations of all its steps in memory",
        trains="a few steps of SGD", batch_norm=True),
    Row("prospr-first-order", "criteria.prospr:prospr", "Alizadeh et al. 2022", "yes",
        "less memory: it takes the steps as constant",
        trains="a few steps of SGD", batch_norm=True, options={"first_order": True}),
    Row("random-erk", "criteria.data_free:RandomERK", "Evci et al. 2020 (RigL), densities of Mocanu et al. 2018", "no",
        "what a criterion must be better than: its densities alone do much", seeded=True, ordered=False),
    Row("iterative-snip", "criteria.snip:snip", "de Jorge et al. 2021", "yes, many passes", "SNIP in 60 rounds",
        rounds=60, batch_norm=True),
    Row("force", "criteria.snip:Force", "de Jorge et al. 2021", "yes, many passes", "98% and above",
        batch_norm=True, ordered=False),
    Row("synflow", "criteria.synflow:synflow", "Tanaka et al. 2020", "a batch's shape",
        "98% and above, without data", rounds=100),
    Row("dataflow", "criteria.synflow:dataflow", "this package", "inputs",
        "SynFlow with the standard deviation of the inputs instead of ones", rounds=100),
    Row("npb", "criteria.npb:NPB", "Pham et al. 2023", "a batch's shape", "paths and nodes in balance",
        seeded=True, ordered=False),
    Row("npb-tiny-imagenet", "criteria.npb:NPB", "Pham et al. 2023", "a batch's shape",
        "the options of the authors' command for ResNet-18 on Tiny-ImageNet",
        seeded=True, ordered=False, options={"alpha": 0.01, "beta": 2.0, "cap": 6, "chunk": 16}),
    Row("ntk-sap", "criteria.ntk_sap:ntk_sap", "Wang et al. 2023", "a batch's shape", "a network without labels",
        rounds=20, seeded=True),
    Row("px", "criteria.px:px", "Iurada et al. 2024", "inputs", "path kernel with data", rounds=100),
    Row("short-irp", "lookahead.probe:short_irp",
        "magnitude of the weight after K steps (Frankle and Carbin 2019, cut short)", "yes",
        "the same without anything learned", rounds=5, **_K_STEPS),
    Row("snip-probe", "lookahead.probe:snip_probe", "weight times mean gradient of K steps", "yes", "a baseline",
        rounds=5, **_K_STEPS),
    Row("ticket", "lookahead.probe:short_irp", "Frankle and Carbin 2019, in one round", "yes",
        "the lottery ticket at its lowest cost: train, keep the largest weights, rewind",
        stage="ahead", trains="K steps, all of a training run by default", cost="2"),
    Row("gmp-ticket", "lookahead.probe:GMPTicket", "mask of gradual magnitude pruning (Zhu and Gupta 2017), rewound",
        "yes", "a mask for the initial weights; a strong baseline at its cost",
        stage="ahead", trains="K steps, all of a training run by default", cost="2", ordered=False),
    Row("gmp", "", "Zhu and Gupta 2017", "yes",
        "only the trained network must be sparse", **_DYNAMIC),
    Row("rigl", "", "Evci et al. 2020", "yes",
        "memory must be that of a sparse network from the first step", **_DYNAMIC),
)
# fmt: on
ROWS = {row.name: row for row in TABLE}
CRITERIA = tuple(row.name for row in TABLE if row.place and row.stage == "initialization")
"""Criteria that choose at initialization, except AutoS."""
LOOK_AHEAD = tuple(row.name for row in TABLE if row.place and row.stage == "ahead")
"""Criteria that train ahead, once or in each of their rounds, except AutoS."""
DYNAMIC = tuple(row.name for row in TABLE if row.stage == "training")
"""Methods that choose their mask during training."""
WITH_BATCH_NORM = tuple(row.name for row in TABLE if row.batch_norm)
"""Criteria that take `batch_norm=`: those by gradients of the loss."""
AHEAD = f"{', '.join(row.name for row in TABLE if row.stage == 'ahead')} and an AutoS of probes"
"""Criteria that look ahead, for messages."""


def make_criterion(
    name: str, seed: int = 0, batch_norm: str = "batch", rounds: int | None = None
) -> "Criterion | Chooser":
    """Return a criterion by name.

    Args:
        name: one of `CRITERIA` or `LOOK_AHEAD`.
        seed: seed of criteria that draw random numbers.
        batch_norm: mode of batch norm, see `gradient.scoring_mode`; only for criteria in `WITH_BATCH_NORM`.
        rounds: number of rounds of a criterion in `LOOK_AHEAD`. Default: the criterion's own.

    Examples:
        >>> from autosparse.criteria import make_criterion
        >>> make_criterion("synflow").rounds
        100
    """
    check_options(name, rounds, batch_norm)
    if name not in (*CRITERIA, *LOOK_AHEAD):
        raise unknown("criterion", name, (*CRITERIA, *LOOK_AHEAD))
    return ROWS[name].make(seed, batch_norm, rounds)


def check_options(name: str, rounds: int | None, batch_norm: str) -> None:
    """Refuse options that a criterion by name, folder or path does not take."""
    fixed = name in (*CRITERIA, *DYNAMIC) or (name in LOOK_AHEAD and not ROWS[name].rounds)
    if rounds is not None and (fixed or registry.is_path(name)):
        raise UserError(
            f"rounds are for a saved AutoS and for {AHEAD}, not for {name}; snip in rounds is iterative-snip"
        )
    if batch_norm != "batch" and name not in WITH_BATCH_NORM:
        raise UserError(f"{name} has no batch norm of mode {batch_norm}; {', '.join(WITH_BATCH_NORM)} have")
