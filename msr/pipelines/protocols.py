"""The named evaluation protocols: what each is, in numbers. In words: docs/protocols.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from msr.degradation import DegradationName


@dataclass(frozen=True)
class Protocol:
    """How originals are reduced, and how results are compared with them."""

    name: str
    of: Literal["photos", "clips", "bursts", "raw bursts"]
    degradation: DegradationName
    scale: int | None  # None: that of the models
    space: Literal["y", "rgb"]
    crop: int  # pixels left out at each border; 0: decided by the scale of the models
    kinds: tuple[str, ...]  # of the models it takes


def _photos(scale: int, degradation: DegradationName, part: str = "") -> Protocol:
    return Protocol(f"sisr-x{scale}{part}-y", "photos", degradation, scale, "y", scale, ("image",))


def _clips(name: str, scale: int, degradation: DegradationName, space: Literal["y", "rgb"]) -> Protocol:
    # Eight pixels: what most video papers leave out.
    return Protocol(name, "clips", degradation, scale, space, 8, ("image", "video"))


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        *(_photos(scale, "bi") for scale in (2, 3, 4)),
        _photos(4, "bd", "-bd"),
        _clips("vsr-x2-bi-y", 2, "bi", "y"),
        _clips("vsr-x4-bi-y", 4, "bi", "y"),
        _clips("vsr-x4-bd-y", 4, "bd", "y"),
        _clips("vsr-x4-bi-rgb", 4, "bi", "rgb"),
        Protocol("burst", "bursts", "box", None, "y", 0, ("image", "burst")),
        Protocol("burst-raw-x4", "raw bursts", "raw", 4, "rgb", 16, ("burst-raw",)),
    )
}
