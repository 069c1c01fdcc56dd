"""A backbone made ready to extract features: fewer and faster operations, the same numbers."""

from __future__ import annotations

import copy
import logging

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tailwise.shapes import Float

_log = logging.getLogger(__name__)

# Subclasses may compute their weights on the way (weight standardisation) and cannot be folded.
_CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
_BATCH_NORMS = (nn.BatchNorm2d, BatchNormAct2d)


class FrozenBackbone(nn.Module):
    """Pooled features of images, without gradients; see :func:`prepare_for_inference`.

    Args:
        backbone: (B, 3, H, W) images to (B, F) features, in evaluation mode, with weights of ``dtype`` in
            channels-last order.
        dtype: what it computes in.
    """

    def __init__(self, backbone: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.backbone = backbone
        self.dtype = dtype

    @torch.inference_mode()
    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B F"]:
        """Return the (B, F) float32 features of normalised images."""
        pooled: Tensor = self.backbone(images.to(self.dtype, memory_format=torch.channels_last))
        return pooled.float()


def prepare_for_inference(backbone: nn.Module, dtype: torch.dtype = torch.float32) -> FrozenBackbone:
    """Copy a backbone for fast feature extraction.

    Batch norms are folded into the convolutions before them, which is exact up to rounding, and tensors are laid out
    channels last, which the fast convolutions of CPUs and GPUs want. A backbone whose operations cannot be traced is
    not folded; the log says so.

    Args:
        backbone: a timm model without classifier; it is left as it is.
        dtype: float32, or a half precision to trade digits for speed where the processor has fast half-precision
            arithmetic.

    Returns:
        Images (B, 3, H, W) of any floating dtype to float32 features (B, F), on the device of ``backbone``.
    """
    prepared = copy.deepcopy(backbone).eval().requires_grad_(False)
    _fold_batch_norms(prepared)
    return FrozenBackbone(prepared.to(dtype=dtype).to(memory_format=torch.channels_last), dtype).eval()


class _Tracer(fx.Tracer):
    """Look inside everything but convolutions and batch norms, which stay whole to be found as pairs."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, (*_CONVOLUTIONS, *_BATCH_NORMS)) or super().is_leaf_module(m, module_qualified_name)


def _fold_batch_norms(model: nn.Module) -> None:
    for convolution, norm in _foldable_pairs(model):
        conv, bn = model.get_submodule(convolution), model.get_submodule(norm)
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(bn, nn.BatchNorm2d)
        model.set_submodule(convolution, fuse_conv_bn_eval(conv, bn))
        # timm's batch norm carries the activation after it.
        model.set_submodule(norm, bn.act if isinstance(bn, BatchNormAct2d) else nn.Identity())


def _foldable_pairs(model: nn.Module) -> list[tuple[str, str]]:
    """Names of each convolution and batch norm of which the second is all that uses the first."""
    modules = dict(model.named_modules())
    if not any(type(module) in _BATCH_NORMS for module in modules.values()):
        return []
    try:
        calls = [node for node in _Tracer().trace(model).nodes if node.op == "call_module"]
    except (fx.proxy.TraceError, RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError) as error:
        _log.warning("batch norms of %s are not folded: it cannot be traced (%s)", type(model).__name__, error)
        return []
    called = [str(node.target) for node in calls]
    pairs = []
    for node, norm in zip(calls, called, strict=True):
        before = node.args[0] if node.args else None
        if (
            type(modules[norm]) in _BATCH_NORMS
            and isinstance(before, fx.Node)
            and before.op == "call_module"
            and type(modules[str(before.target)]) in _CONVOLUTIONS
            and len(before.users) == 1
            and called.count(norm) == called.count(str(before.target)) == 1
            and modules[norm].running_mean is not None
        ):
            pairs.append((str(before.target), norm))
    return pairs
