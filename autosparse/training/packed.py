"""Several trainings of one network at once: their weights, masks and batches stacked, each step one of them all."""

from collections.abc import Sequence

from accelerate import Accelerator

from autosparse.errors import UserError
from autosparse.tasks import Data
from autosparse.tasks.recipe import Recipe
from autosparse.training.epoch import private_generators
from autosparse.training.loop import Epoch, train
from autosparse.training.members import Member, Training, due, save
from autosparse.training.stack import Stack


def train_together(
    trainings: Sequence[Training], data: Data, recipe: Recipe, accelerator: Accelerator
) -> list[list[Epoch] | UserError]:
    """Train several models in place, each as `train` does alone, except for rounding.

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
    members = [Member(training, recipe, accelerator.device) for training in trainings]
    steps = len(data.training(recipe.batch_size))
    stack: Stack | None = None
    for member in members:
        member.training.progress(member.epoch * steps + member.step)
    with private_generators(accelerator.device):
        while left := [member for member in members if member.error is None and member.epoch < recipe.epochs]:
            epoch, step = min((member.epoch, member.step) for member in left)
            behind = [member for member in left if (member.epoch, member.step) == (epoch, step)]
            ahead = [member.step for member in left if member not in behind and member.epoch == epoch]
            stop = min(ahead, default=steps)
            stack = stack if stack and stack.members == behind else Stack(behind, data, recipe, accelerator.device)
            stack.train(epoch, step, stop)
            if stop == steps:
                for member in behind:
                    member.end_epoch(steps, data, accelerator)
                if due(well := [member for member in behind if member.error is None]):
                    save(well)
    for member in members:
        member.detach_from_stack()
    return [member.error or member.history for member in members]
