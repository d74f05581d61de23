"""NPB: node-path balancing (Pham et al. 2023, pvh1602/NPB)."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autosparse.criteria.base import Batches, Criterion
from autosparse.criteria.double import Embedding
from autosparse.criteria.erk import erk_counts
from autosparse.criteria.feeding import Call
from autosparse.criteria.flow import absolute, flow, in_double, ones_of, run
from autosparse.criteria.nodes import Channels, Floats, balance, deal
from autosparse.criteria.paths import counting_paths, entering
from autosparse.errors import UserError
from autosparse.pruning import Layout, Mask, keep_top_each
from autosparse.pruning.prunable import canonical, unwrapped
from autosparse.seeds import stream

_LARGE = 128 * 128  # kernels
_COUNTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class NPB:
    """Layer by layer from the input, the weights that maximize α f_n + (1 - α) f_p + β f_k.

    f_n is the share of the layer's input and output channels that have a weight, f_p the number of paths from the input
    through the layer over the most that its weights could carry, f_k the number of kernels in use over that of its
    weights. A layer keeps as many weights as `erk_counts` says. Which of the equally good weights they are is drawn
    from the seed. After the last layer, weights on no path to the outputs move to where the most paths of their layer
    are.

    Ours: the authors solve for a whole matrix of kernels, large layers in pieces; see `nodes.balance` for the small
    problem with the same optimum that makes any width and any groups tractable. They name layers of their networks;
    here the paths into a layer are seen when the network calls it. They move idle weights into the fullest kernels.
    Their f_n also counts input channels that no path enters; their cap falls by 2 at stages of VGG and, while above 5,
    at shortcuts of ResNet, ours stays; they cut linear layers, too, by 10 outputs.

    Looks at no batch except for the shape of an input; costs a small linear program a layer, time linear in the number
    of weights, and two passes of one sample in float64.

    Attributes:
        seed: of the choice among equally good weights.
        alpha: α, the share of nodes against paths. 0.99 is the default of the authors' code for any network; its two
            published commands, ResNet-20 on CIFAR-10 and ResNet-18 on Tiny-ImageNet, take 0.01.
        beta: β, the worth of kernels in use; 0 is the formula of their paper alone. 0.001 is the default of their code;
            those commands take 1 and 2.
        cap: the most weights of a kernel before idle ones move, but in the first layer and where a layer keeps more; as
            many as it has, if None. Their default is 5; those commands take 9, all of a 3 × 3 kernel, and 6.
        chunk: layers of more than 128² kernels are solved for so many outputs at a time, each part keeping its share
            of the layer's weights; whole if None. Their default is 32; the second command takes 16.
    """

    seed: int
    alpha: float = 0.99
    beta: float = 0.001
    cap: int | None = None
    chunk: int | None = None

    @classmethod
    def tiny_imagenet(cls, seed: int) -> "NPB":
        """As the authors' command for ResNet-18 on Tiny-ImageNet has it."""
        return cls(seed, alpha=0.01, beta=2.0, cap=6, chunk=16)

    def at(self, k: int) -> Criterion:
        """The criterion that chooses `k` weights."""

        def score(model: nn.Module, mask: Mask, batches: Batches) -> Tensor:
            if mask.count != mask.layout.size:
                raise UserError("npb prunes a whole network; this one has been pruned already")
            call, embedding = ones_of("npb", model, batches, mask.kept.device)
            return self._score(unwrapped(model), mask, call, embedding, k)

        return score

    def _score(self, model: nn.Module, full: Mask, call: Call, embedding: Embedding | None, k: int) -> Tensor:
        layout = full.layout
        modules = _modules(model, layout)
        counts = erk_counts(layout, k, [layer.size for layer in layout.layers])
        with counting_paths(model):
            state = {
                name: tensor.zero_() if name.endswith("bias") else absolute(tensor)
                for name, tensor in in_double(model).items()
            }
            self._choose(model, modules, state, call, embedding, counts)
            paths = flow("npb", model, layout, state, call, embedding)
        scores = torch.empty(layout.size, dtype=torch.float32, device=full.kept.device)
        for name, part in layout.unflatten(scores).items():
            kept, through = state.pop(name).detach() > 0, paths.pop(name)
            on_path = through > 0
            part.copy_(through.div_(through.amax().clamp_min(torch.finfo(torch.float64).tiny)))
            part.add_(1.0).masked_fill_(kept, 3.0)  # on a path if it were kept; kept and on one
            part.masked_fill_(~on_path & kept, 0.5).masked_fill_(~on_path & ~kept, 0.0)
        chosen = keep_top_each(scores, counts, full)
        return scores.sub_(4.0 * ~chosen.kept)

    def _choose(
        self,
        model: nn.Module,
        modules: dict[str, nn.Module],
        state: dict[str, Tensor],
        call: Call,
        embedding: Embedding | None,
        counts: list[int],
    ) -> None:
        """Set the weights in `state` to 1 where they are kept and 0 elsewhere, each layer as the network calls it."""
        generator = np.random.Generator(np.random.PCG64(stream("npb", self.seed)))
        waiting = dict(zip(modules, counts, strict=True))

        def choose(name: str, module: nn.Module, inputs: Tensor) -> None:
            if name not in waiting:  # a layer that is called again
                return
            channels = Channels.of(module, tuple(state[name].shape))
            paths = entering(module, inputs)
            cap = self.cap if len(waiting) < len(modules) else None
            count = waiting.pop(name)
            if not np.isfinite(paths).all():
                raise UserError(f"npb cannot prune this network: what layer {name} is given is not finite")
            if len(paths) != channels.groups * channels.inputs:
                wanted = channels.groups * channels.inputs
                raise UserError(
                    f"npb cannot prune this network: layer {name} has {wanted} input channels and is given {len(paths)}"
                )
            if not paths.any() and all(counts):
                raise UserError(f"npb cannot prune this network: no path leads from the input to layer {name}")
            state[name].copy_(torch.from_numpy(self._kept(channels, paths, count, cap, generator)))

        hooks = [
            module.register_forward_pre_hook(
                lambda module, inputs, named, name=name: choose(name, module, next(iter((*inputs, *named.values())))),
                with_kwargs=True,
            )
            for name, module in modules.items()
        ]
        try:
            with torch.no_grad():
                run("npb", model, state, call, embedding, lambda outputs: outputs)
        finally:
            for hook in hooks:
                hook.remove()
        if waiting:
            raise UserError(f"npb cannot prune this network: it does not call layer {next(iter(waiting))} as a module")

    def _kept(
        self, channels: Channels, paths: Floats, count: int, cap: int | None, generator: np.random.Generator
    ) -> NDArray[np.bool_]:
        """A mask of a layer, solved as a whole or in pieces."""
        weight = np.zeros(channels.shape, np.bool_)
        before = 0
        for where, piece in channels.pieces(self.chunk if channels.kernels > _LARGE else None):
            upto = count * where.stop // channels.outputs
            units = balance(piece, paths, upto - before, self.alpha, self.beta, cap)
            channels.view(weight)[:, :, where] = piece.view(deal(piece, units, generator))
            before = upto
        return weight


def _modules(model: nn.Module, layout: Layout) -> dict[str, nn.Module]:
    """The modules that the layers are the weights of, by the layer's name, in layout order.

    Raises:
        UserError: a layer that is the weight of no linear layer and no convolution.
    """
    owners = {
        canonical(f"{path}.{short}" if path else short): module
        for path, module in model.named_modules(remove_duplicate=False)
        for short, _ in module.named_parameters(recurse=False)
    }
    for layer in layout.layers:
        owner = owners[layer.name]
        if not isinstance(owner, _COUNTED) or not layer.name.endswith("weight"):
            raise UserError(
                f"npb cannot prune this network: layer {layer.name} belongs to a {type(owner).__name__}, "
                "no linear layer or convolution; exclude= leaves it dense, synflow and snip take it"
            )
    return {layer.name: owners[layer.name] for layer in layout.layers}
