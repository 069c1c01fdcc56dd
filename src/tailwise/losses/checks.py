"""What a batch must be: every refusal says what was given, what is expected, and the way out."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

from tailwise.losses.targets import is_sparse

_LOGIT_TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_TARGET_TYPES = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, *_LOGIT_TYPES)


def check_batch(logits: Tensor, targets: Tensor, mask: Tensor | None, num_classes: int) -> None:
    """Raise ValueError unless logits, targets and mask are tensors of one shape, types and device that fit."""
    require_tensor("logits", logits)
    if logits.ndim != 2 or logits.shape[1] != num_classes:
        raise ValueError(
            f"logits must be (batch, {num_classes}), got {tuple(logits.shape)}{_as_rows(logits, num_classes)}"
        )
    require_type("logits", logits)
    check_labels(targets, mask, (len(logits), num_classes), logits.device, "the logits")


def check_labels(
    targets: Tensor, mask: Tensor | None, shape: tuple[int, int], device: torch.device, whose: str
) -> None:
    """Raise ValueError unless targets and mask are tensors of this shape, on the device of ``whose``."""
    require_tensor("targets", targets)
    if targets.shape != shape:
        indices = targets.ndim == 1 and len(targets) == shape[0] and not targets.is_floating_point()
        raise ValueError(
            f"targets must be {shape}, samples by classes of the loss, got {tuple(targets.shape)}"
            + (": one label for every class, not the index of a class" if indices else "")
        )
    if targets.layout not in (torch.strided, torch.sparse_csr):
        raise ValueError(f"targets must be dense or sparse CSR, got {targets.layout}: give targets.to_sparse_csr()")
    if targets.dtype not in _TARGET_TYPES:
        raise ValueError(
            f"targets must be boolean, integer or floating point, got {targets.dtype}: give targets.to(torch.int8), or "
            "float32 if they are soft"
        )
    if targets.device != device:
        raise ValueError(f"targets are on {targets.device}, {whose} on {device}: give targets.to({str(device)!r})")
    if (torch.is_grad_enabled() and targets.requires_grad) or unpack_dual(targets).tangent is not None:
        raise ValueError("targets require a gradient, which only the logits receive: give targets.detach()")
    if mask is None:
        return
    require_tensor("mask", mask)
    if mask.shape != shape or mask.dtype != torch.bool:
        raise ValueError(
            f"mask must be boolean with the shape of the targets {shape}, got {mask.dtype} {tuple(mask.shape)}"
            + (": give mask.bool()" if mask.shape == shape else "")
        )
    if mask.device != device:
        raise ValueError(f"mask is on {mask.device}, {whose} on {device}: give mask.to({str(device)!r})")


def check_targets(targets: Tensor) -> None:
    """Raise ValueError unless every target is in [0, 1] or unknown, and whole if its type is."""
    if is_sparse(targets):
        targets = targets.values()
    if targets.dtype == torch.bool:
        return
    allowed = ((targets >= 0) & (targets <= 1)) | (targets == -1) | (targets != targets)
    if not bool(allowed.all()):
        wrong = targets[~allowed][0].item()
        raise ValueError(f"targets must be 0, 1, soft in [0, 1], or unknown (-1 or NaN); found {wrong}")


def require_tensor(name: str, given: object) -> None:
    """Raise ValueError unless something is a tensor."""
    if isinstance(given, Tensor):
        return
    kind = f"{type(given).__module__}.{type(given).__qualname__}".removeprefix("builtins.")
    if isinstance(given, list | tuple):
        way = f": give torch.tensor({name})"
    elif hasattr(given, "to_numpy"):
        way = f": give torch.from_numpy({name}.to_numpy())"
    else:
        way = f": give torch.from_numpy({name})" if hasattr(given, "__array__") else ""
    raise ValueError(f"{name} must be a torch.Tensor, got {kind}{way}")


def require_type(name: str, given: Tensor) -> None:
    """Raise ValueError unless a tensor is dense, of a type that can be computed with."""
    if given.layout != torch.strided:
        raise ValueError(f"{name} must be dense, got {given.layout}: give {name}.to_dense()")
    if given.dtype not in _LOGIT_TYPES:
        kinds = ", ".join(str(kind).removeprefix("torch.") for kind in _LOGIT_TYPES)
        raise ValueError(f"{name} must be floating point ({kinds}), got {given.dtype}")


def _as_rows(logits: Tensor, num_classes: int) -> str:
    """The way out, where the last dimension is that of the classes."""
    if logits.ndim == 0 or logits.shape[-1] != num_classes or logits.ndim == 2:
        return ""
    if logits.ndim == 1:
        return ": logits[None] and targets[None] are a batch of one"
    return f": flatten(0, {logits.ndim - 2}) makes rows of logits and of targets"
