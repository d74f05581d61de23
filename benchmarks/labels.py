"""The worth of cheaper labels: `python -m benchmarks.labels --scale small`.

AutoS that looks ahead is fitted to runs of iterative rewind pruning (IRP) of several lengths.
"""

from dataclasses import dataclass, replace

from autosparse.command import run
from autosparse.study.parts import Comparison, Method, Part
from autosparse.study.pretrained import lookahead_fit_options, lookahead_scale, probed_irp
from autosparse.study.scale import Scale
from benchmarks.common import StudyArguments, report

_ITERATIONS = {"small": (5, 10, 20), "full": (5, 10, 20), "smoke": (2,)}
_SPARSITIES = {"small": (0.98, 0.99), "full": (0.98, 0.99), "smoke": (0.9, 0.95)}


@dataclass(frozen=True, kw_only=True)
class Arguments(StudyArguments):
    """Compare AutoS fitted to runs by magnitude of 5, 10 and 20 iterations, and of 5 with a third of the epochs."""


def labels(scale: Scale) -> list[Part]:
    """Return a table for each kind of network; each row is AutoS fitted to one run."""
    name = scale.name
    scale, steps = lookahead_scale(scale)
    parts: list[Part] = []
    for network, k in steps.items():
        setting = scale.settings[network]
        epochs = setting.make_recipe().epochs
        sources = {f"N = {n}": replace(scale, iterations={20: n}) for n in _ITERATIONS[name]}
        if epochs >= 3:
            first = _ITERATIONS[name][0]
            sources[f"N = {first}, a third of the epochs"] = replace(
                scale,
                settings={network: replace(setting, epochs=epochs // 3)},
                iterations={20: first},
                output=scale.output / "short",  # the folder of a run does not say its epochs
            )
        methods = [Method("short IRP", "short-irp")]
        for label, made in sources.items():
            run = probed_irp(made, network, k, seed=0)
            trainings = (run.config.iterations + 1) * made.settings[network].make_recipe().epochs / epochs
            fit = scale.fit_to(
                (run,),
                name=f"{network}-{label.replace(' ', '').replace('=', '').replace(',', '-')}",
                **lookahead_fit_options(name),
            )
            methods.append(Method(f"{label}: {trainings:g} trainings", fit, (run,)))
        title, stem = f"Labels for less: {network.replace('_', ' on ')}", f"labels_{network}"
        parts.append(Comparison(title, stem, scale, network, tuple(methods), _SPARSITIES[name]))
    return parts


if __name__ == "__main__":
    run(Arguments, lambda arguments: report(arguments, "Labels for less", labels))
