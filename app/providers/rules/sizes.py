"""The size of an image, as WIDTHxHEIGHT."""

import math
import re
from dataclasses import dataclass
from typing import Any

from app.providers.rules.kinds import Schema

_SIDE = "[1-9][0-9]{0,4}"
_SIZE = re.compile(f"({_SIDE})x({_SIDE})")


@dataclass(frozen=True)
class AnySize:
    """WIDTHxHEIGHT in pixels, or auto."""

    def allows(self, value: Any) -> bool:
        """Whether `value` is one."""
        return value == "auto" or (isinstance(value, str) and bool(_SIZE.fullmatch(value)))

    def parse(self, text: str) -> Any:
        """The text itself."""
        return text

    def schema(self) -> Schema:
        """The same as JSON Schema."""
        return {"type": "string", "pattern": f"^(auto|{_SIDE}x{_SIDE})$"}

    def __str__(self) -> str:
        return "WIDTHxHEIGHT in pixels, or auto"


@dataclass(frozen=True)
class FreeSize(AnySize):
    """WIDTHxHEIGHT within limits on multiple, long side, pixels and ratio; or auto."""

    multiple: int
    longest: int
    fewest_pixels: int
    most_pixels: int
    ratio: int

    def allows(self, value: Any) -> bool:
        """Whether `value` is one."""
        if value == "auto":
            return True
        match = _SIZE.fullmatch(value) if isinstance(value, str) else None
        if not match:
            return False
        short, long = sorted((int(match[1]), int(match[2])))
        return (
            math.gcd(short, long) % self.multiple == 0
            and long <= self.longest
            and self.fewest_pixels <= short * long <= self.most_pixels
            and long <= short * self.ratio
        )

    def schema(self) -> Schema:
        """The same as JSON Schema, which can say it only in words."""
        return {**super().schema(), "description": str(self)}

    def __str__(self) -> str:
        return (
            f"auto or WIDTHxHEIGHT with both sides multiples of {self.multiple}, the long side at most "
            f"{self.longest}, {self.fewest_pixels:,} to {self.most_pixels:,} pixels, "
            f"and a ratio of at most {self.ratio}:1"
        )
