"""Labels for less: AutoS that looks ahead, fitted to runs of IRP of several lengths."""

from dataclasses import replace

from autosparse.study.costs import AtCost
from autosparse.study.lookahead import WEIGHTS, fitting, kinds_of, labelled
from autosparse.study.parts import Method, Part
from autosparse.study.scale import Scale

_ITERATIONS = {"small": (5, 10, 20), "full": (5, 10, 20), "smoke": (2,)}


def labels(scale: Scale) -> list[Part]:
    """Labels of cheaper runs of IRP: `python launch/paper.py labels --scale small`.

    One run a row, by magnitude, of 5, 10 and 20 iterations; and one of 5 whose trainings have a third of the epochs.
    To expect: all level; then the cheapest is the one to take.
    """
    name, inner = scale.name, kinds_of(scale)
    scale, kinds = inner
    parts: list[Part] = []
    for pair, kind in kinds.items():
        epochs = kind.setting.make_recipe().epochs
        sources = {f"N = {n}": replace(scale, iterations={20: n}) for n in _ITERATIONS[name]}
        if epochs >= 3:
            short = replace(kind.setting, epochs=epochs // 3)
            first = _ITERATIONS[name][0]
            sources[f"N = {first}, a third of the epochs"] = replace(
                scale,
                settings={pair: short},
                iterations={20: first},
                output=scale.output / "short",  # the folder of a run does not say its epochs
            )
        methods = [Method("short IRP", "short-irp")]
        for label, made in sources.items():
            run = labelled(made, kind, seed=0)
            trainings = (run.config.iterations + 1) * made.settings[pair].make_recipe().epochs / epochs
            fit = scale.fit_to(
                (run,),
                name=f"{pair}-{label.replace(' ', '').replace('=', '').replace(',', '-')}",
                **fitting(name),
                features=WEIGHTS,
            )
            methods.append(Method(f"{label}: {trainings:g} trainings", fit, (run,)))
        parts.append(
            AtCost(
                title=f"Labels for less: {pair.replace('_', ' on ')}",
                stem=f"labels_{pair}",
                scale=scale,
                pair=pair,
                methods=tuple(methods),
                sparsities=kind.sparsities[-2:],
            )
        )
    return parts
