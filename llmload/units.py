"""How many of one unit make another: every conversion of the package reads from here."""

from typing import Final

NS_PER_S: Final = 1_000_000_000
MS_PER_S: Final = 1000
S_PER_MIN: Final = 60
S_PER_H: Final = 3600
J_PER_KWH: Final = 3_600_000
MJ_PER_J: Final = 1000
"""Millijoules: NVML counts energy in them."""

KIB: Final = 1024
"""Bytes; a name without `_PER_` is a number of bytes."""
GIB: Final = 2**30
GB: Final = 10**9
MIB_PER_GIB: Final = 1024
