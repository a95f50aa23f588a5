"""Which stamps `client.stamps = "auto"` has here: CI runs the tests with and without CAP_NET_RAW."""

from typing import Final

from llmload.client.packet_ring import PacketRing, RingUnavailableError
from llmload.record import StampSource


def _best() -> StampSource:
    try:
        PacketRing().close()
    except RingUnavailableError:
        return StampSource.KERNEL
    return StampSource.PACKET


BEST_STAMPS: Final = _best()
EXPECTED: Final = {"auto": BEST_STAMPS, "socket": StampSource.KERNEL, "user": StampSource.USER}
"""The record's source of stamps by the setting."""
