import pytest

from autosparse.errors import UserError
from autosparse.tasks.recipe import PAPER
from autosparse.training import Recipe, find_recipe


def test_recipes_are_the_papers_and_scale_with_the_epochs() -> None:
    lenet, resnet = PAPER["lenet-300-100", "mnist"], PAPER["resnet18", "cifar10"]
    assert (lenet.epochs, lenet.optimizer, lenet.batch_size, lenet.learning_rate) == (100, "adam", 128, 1.2e-3)
    assert lenet.rate(59) == 1.2e-3
    assert lenet.rate(60) == pytest.approx(2.4e-4)
    assert resnet.rate(159) == pytest.approx(0.01 * 0.04)
    assert find_recipe("paper", "vgg19", "cifar100").weight_decay == 1e-4
    assert Recipe(160, "sgd", 0.1, drops=(60, 120)).with_epochs(8).drops == (3, 6)


def test_missing_recipe_raises_and_lists_the_others() -> None:
    with pytest.raises(UserError, match="no recipe for lenet-300-100 on digits; it has: lenet-300-100 on mnist, "):
        find_recipe("paper", "lenet-300-100", "digits")
    assert find_recipe("short", "resnet18", "cifar10").augment
    assert not find_recipe("short", "resnet18", "fashion-mnist").augment
    with pytest.raises(UserError, match="no strong recipe for lenet-300-100"):
        find_recipe("strong", "lenet-300-100", "mnist")
    with pytest.raises(UserError, match="epochs must be at least 1, got 0"):
        Recipe(0, "sgd", 0.1)
