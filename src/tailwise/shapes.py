"""Shape annotations: jaxtyping's where it is installed (tests check them), plain types where it is not.

The core needs torch and numpy only, so ``Float[Tensor, "B C"]`` must mean ``Tensor`` without jaxtyping.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Num, Shaped, UInt8, UInt32
else:
    try:
        from jaxtyping import Bool, Float, Int, Num, Shaped, UInt8, UInt32
    except ModuleNotFoundError:

        class _Unchecked:
            def __class_getitem__(cls, item: tuple[Any, str]) -> Any:
                return item[0]

        Bool = Float = Int = Num = Shaped = UInt8 = UInt32 = _Unchecked

__all__ = ["Bool", "Float", "Int", "Num", "Shaped", "UInt8", "UInt32"]
