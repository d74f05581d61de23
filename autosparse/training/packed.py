"""Several trainings of one network at once: their weights, masks and batches stacked, each step one of them all."""

from collections.abc import Sequence

from accelerate import Accelerator

from autosparse.data import Data
from autosparse.errors import UserError
from autosparse.training.epoch import private_generators
from autosparse.training.lanes import Lane, Training, due, save
from autosparse.training.loop import Epoch, train
from autosparse.training.recipe import Recipe
from autosparse.training.stack import Stack


def train_together(
    trainings: Sequence[Training], data: Data, recipe: Recipe, accelerator: Accelerator
) -> list[list[Epoch] | UserError]:
    """Train several models in place, each as `train` does alone, but for rounding.

    A single one is trained by `train`, bit for bit. The checkpoints are those of `train`, too, and either of the two
    goes on from them. Those that are behind the others train until they have caught up, and one whose loss is no number
    any more leaves the pack.

    Args:
        trainings: models of one architecture, on `accelerator.device`.
        data: what all learn from, each in the order of its seed.
        recipe: how all are trained.
        accelerator: of the only process.

    Returns:
        Of each training one entry an epoch, or why it failed.

    Raises:
        UserError: the recipe, the network or its batches cannot be packed.
    """
    if len(trainings) == 1:
        try:
            return [train(data=data, recipe=recipe, accelerator=accelerator, **vars(trainings[0]))]
        except UserError as error:
            return [error]
    recipe.check_packed(accelerator.num_processes)
    lanes = [Lane(training, recipe, accelerator.device) for training in trainings]
    steps = len(data.training(recipe.batch_size))
    stack: Stack | None = None
    for lane in lanes:
        lane.training.progress(lane.epoch * steps + lane.step)
    with private_generators(accelerator.device):
        while left := [lane for lane in lanes if lane.error is None and lane.epoch < recipe.epochs]:
            epoch, step = min((lane.epoch, lane.step) for lane in left)
            behind = [lane for lane in left if (lane.epoch, lane.step) == (epoch, step)]
            stop = min((lane.step for lane in left if lane not in behind and lane.epoch == epoch), default=steps)
            stack = stack if stack and stack.lanes == behind else Stack(behind, data, recipe, accelerator.device)
            stack.train(epoch, step, stop)
            if stop == steps:
                for lane in behind:
                    lane.end_epoch(steps, data, accelerator)
                if due(well := [lane for lane in behind if lane.error is None]):
                    save(well)
    for lane in lanes:
        lane.part()
    return [lane.error or lane.history for lane in lanes]
