"""The forward pass of many peers through a plain sequence of layers, without `vmap`: a third faster for small ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import vmap

# Layers without parameters that treat every sample by itself, as functions of [G, B, features].
POINTWISE: dict[type[nn.Module], Callable[[Any, Tensor], Tensor]] = {
    nn.ReLU: lambda layer, h: torch.relu(h),
    nn.Tanh: lambda layer, h: torch.tanh(h),
    nn.Sigmoid: lambda layer, h: torch.sigmoid(h),
    nn.GELU: lambda layer, h: nn.functional.gelu(h, approximate=layer.approximate),
    nn.SiLU: lambda layer, h: nn.functional.silu(h),
    nn.Identity: lambda layer, h: h,
}


class StackedForward:
    """Linear layers as one batched matrix product for all peers.

    Legend: G peers, B samples, I and O features in and out.

    Attributes:
        layers: (prefix of its parameters' names, module), in order.
    """

    def __init__(self, layers: list[tuple[str, nn.Module]]) -> None:
        self.layers = layers

    @staticmethod
    def of(model: nn.Module) -> StackedForward | None:
        """Returns the forward pass of a model; None if it is more than a sequence of known layers."""
        layers = _sequence(model, "")
        if layers is None or any(_has_hooks(module) for module in model.modules()):
            return None
        parameters = list(model.named_parameters(remove_duplicate=False))
        tied = len({id(p) for _, p in parameters}) != len(parameters)
        frozen = any(not p.requires_grad for _, p in parameters)
        return None if tied or frozen or not parameters else StackedForward(layers)

    def __call__(self, leaves: Mapping[str, Tensor], h: Tensor) -> Tensor:
        """Returns the outputs, [G, B, O], of parameters [G, ...] and samples [G, B, ...].

        Raises:
            RuntimeError: the samples' shape does not suit the layers.
        """
        for prefix, layer in self.layers:
            if isinstance(layer, nn.Flatten):
                h = h.flatten(2)
            elif isinstance(layer, nn.Linear):
                if h.dim() != 3:
                    raise RuntimeError(f"{prefix}Linear: expects [samples, features], got {list(h.shape[1:])}")
                weight_GIO = leaves[f"{prefix}weight"].transpose(1, 2)
                if layer.bias is None:
                    h = torch.bmm(h, weight_GIO)
                else:
                    h = torch.baddbmm(leaves[f"{prefix}bias"].unsqueeze(1), h, weight_GIO)
            else:
                h = POINTWISE[type(layer)](layer, h)
        return h


def stacked_loss(loss_fn: Any, targets: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Returns the losses of many peers, [G], of outputs [G, B, O] and targets [G, B, ...].

    The usual one is computed in one go, others with `vmap`.

    Args:
        loss_fn: of one peer's outputs and targets. targets: all there are.
    """
    if not is_cross_entropy(loss_fn, targets):
        return vmap(loss_fn)

    def cross_entropy(output_GBO: Tensor, y_GB: Tensor) -> Tensor:
        each = F.cross_entropy(output_GBO.flatten(0, 1), y_GB.flatten(), reduction="none")
        return each.view(y_GB.shape).mean(dim=1)

    return cross_entropy


def is_cross_entropy(loss_fn: Any, targets: Tensor) -> bool:
    """Says whether a loss is the usual mean cross-entropy, and all targets are numbers of classes."""
    has_classes = targets.dim() == 1 and not targets.is_floating_point() and int(targets.min()) >= 0
    return has_classes and (loss_fn is F.cross_entropy or _is_plain(loss_fn))


def _is_plain(loss_fn: Any) -> bool:
    return (
        type(loss_fn) is nn.CrossEntropyLoss
        and loss_fn.weight is None
        and loss_fn.reduction == "mean"
        and not loss_fn.label_smoothing
        and not _has_hooks(loss_fn)
    )


def _sequence(module: nn.Module, prefix: str) -> list[tuple[str, nn.Module]] | None:
    if type(module) is nn.Sequential:
        parts = [_sequence(child, f"{prefix}{name}.") for name, child in module._modules.items() if child]
        return None if None in parts else [layer for part in parts for layer in part or ()]
    is_known = type(module) in POINTWISE or type(module) is nn.Linear
    is_flatten = type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1)
    return [(prefix, module)] if is_known or is_flatten else None


def _has_hooks(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )
