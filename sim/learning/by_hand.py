"""Whole steps of many peers without autograd, for dense layers with cross-entropy and plain SGD: half the time of it.

The derivatives are those of the textbook: at the outputs softmax(o) - onehot(y), through a layer's weights and activation
backwards from there. What autograd cannot know is that a gradient is needed once only, to be subtracted: here it is added
to the weights by the very matrix product that computes it, and the space for what comes between is used again.

The sums are the same as autograd's in another order, so the last bits differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sim.learning.stacked import StackedForward, is_cross_entropy
from sim.learning.workspace import Workspace

Backward = Callable[[Tensor, Tensor], Tensor]
aten = torch.ops.aten

# Activations as (forward, backward): in place of (input), and of (derivative by the output, output).
ACTIVATIONS: dict[type[nn.Module], tuple[Callable[[Tensor], Tensor], Backward]] = {
    nn.ReLU: (torch.relu_, lambda d, h: aten.threshold_backward.grad_input(d, h, 0, grad_input=d)),
    nn.Tanh: (torch.tanh_, lambda d, h: aten.tanh_backward.grad_input(d, h, grad_input=d)),
    nn.Sigmoid: (torch.sigmoid_, lambda d, h: aten.sigmoid_backward.grad_input(d, h, grad_input=d)),
}


class HandWritten:
    """One step of each peer of a group.

    Legend: G peers, B samples, I and O features in and out.
    """

    def __init__(self, layers: list[tuple[str, nn.Module]]) -> None:
        self._layers = [(prefix, layer) for prefix, layer in layers if type(layer) is not nn.Identity]
        self._first = next(n for n, (_, layer) in enumerate(self._layers) if type(layer) is nn.Linear)

    @staticmethod
    def of(model: nn.Module, loss_fn: Any, targets: Tensor) -> HandWritten | None:
        """Returns the steps of a model; None for one that is more than dense layers, each with an activation or none.

        Args:
            loss_fn: of one peer's outputs and targets. targets: all there are.
        """
        forward = StackedForward.of(model)
        if forward is None or not is_cross_entropy(loss_fn, targets) or targets.dtype != torch.int64:
            return None
        kinds = [type(layer) for _, layer in forward.layers if type(layer) is not nn.Identity]
        while kinds and kinds[0] is nn.Flatten:
            kinds = kinds[1:]
        # An activation overwrites what a dense layer has put out.
        follows_dense = all(kind is nn.Linear or before is nn.Linear for before, kind in zip([None, *kinds], kinds))
        is_known = all(kind is nn.Linear or kind in ACTIVATIONS for kind in kinds)
        return HandWritten(forward.layers) if kinds and is_known and follows_dense else None

    @torch.no_grad()
    def step(
        self, leaves: Mapping[str, Tensor], x: Tensor, y_GB: Tensor, lr: float | Sequence[float], space: Workspace
    ) -> Tensor:
        """Takes a step of x <- x - lr g in place and returns the losses before it, [G].

        Args:
            leaves: parameters [G, ...] by name. x: samples [G, B, ...]. y_GB: class numbers.
            lr: of all peers, or one of each.

        Raises:
            RuntimeError: the samples' shape does not suit the layers.
        """
        inputs, output_GBO = self._forward(leaves, x, space)
        log_GBO = torch.log_softmax(output_GBO, 2)
        y_GB1 = y_GB.unsqueeze(2)
        losses_G = log_GBO.gather(2, y_GB1).squeeze(2).mean(dim=1).neg_()
        change_GBO = log_GBO.exp_()
        change_GBO.scatter_add_(2, y_GB1, change_GBO.new_full((1, 1, 1), -1.0).expand_as(y_GB1))
        samples = y_GB.shape[1]
        if isinstance(lr, (int, float)):
            change_GBO.mul_(-lr / samples)
        else:
            change_GBO.mul_(change_GBO.new_tensor([-each / samples for each in lr]).view(-1, 1, 1))
        self._backward(leaves, inputs, change_GBO, space)
        return losses_G

    def _forward(self, leaves: Mapping[str, Tensor], h: Tensor, space: Workspace) -> tuple[list[Tensor], Tensor]:
        """Returns each layer's input, and the last one's output."""
        inputs = []
        for number, (prefix, layer) in enumerate(self._layers):
            inputs.append(h)
            if isinstance(layer, nn.Flatten):
                h = h.flatten(2)
            elif isinstance(layer, nn.Linear):
                if h.dim() != 3:
                    raise RuntimeError(f"{prefix}Linear: expects [samples, features], got {list(h.shape[1:])}")
                weight_GIO = leaves[f"{prefix}weight"].transpose(1, 2)
                out_GBO = space.take(("out", number), h, len(h), h.shape[1], layer.out_features)
                if layer.bias is None:
                    h = torch.bmm(h, weight_GIO, out=out_GBO)
                else:
                    h = torch.baddbmm(leaves[f"{prefix}bias"].unsqueeze(1), h, weight_GIO, out=out_GBO)
            else:
                h = ACTIVATIONS[type(layer)][0](h)
        return inputs, h

    def _backward(
        self, leaves: Mapping[str, Tensor], inputs: list[Tensor], change_GBO: Tensor, space: Workspace
    ) -> None:
        """Adds to each parameter what it gets; `change_GBO` is -lr times the loss's derivative by the outputs."""
        for number in range(len(self._layers) - 1, self._first - 1, -1):
            prefix, layer = self._layers[number]
            if not isinstance(layer, nn.Linear):
                # Its output is where its input was.
                change_GBO = ACTIVATIONS[type(layer)][1](change_GBO, inputs[number])
                continue
            weight_GOI, h_GBI, by_output_GBO = leaves[f"{prefix}weight"], inputs[number], change_GBO
            if number > self._first:  # with the weights as they were
                change_GBO = torch.bmm(by_output_GBO, weight_GOI, out=space.take(("in", number), h_GBI, *h_GBI.shape))
            weight_GOI.baddbmm_(by_output_GBO.transpose(1, 2), h_GBI)
            if layer.bias is not None:
                leaves[f"{prefix}bias"].add_(by_output_GBO.sum(dim=1))
