"""Whole numbers as arguments: a sentence where something else comes."""

from collections.abc import Sequence

import numpy as np

Pair = int | Sequence[int]  # down and right, or one number for both


def pair(op: str, name: str, value: Pair, least: int = 0) -> list[int]:
    """Return the two numbers, down and right, that one or two stand for; NumPy's count too."""
    numbers = list(value) if isinstance(value, Sequence) else [value, value]
    numbers = [int(n) if isinstance(n, np.integer) else n for n in numbers]
    if len(numbers) != 2 or not all(isinstance(n, int) for n in numbers) or min(numbers) < least:
        raise ValueError(f"{op} {name} is a whole number of at least {least} or a pair (down, right); got {value!r}")
    return numbers


def check_whole(op: str, **numbers: int) -> None:
    """Raise ValueError where one is no whole number."""
    for name, number in numbers.items():
        if not isinstance(number, int | np.integer):
            raise ValueError(f"{op} {name} is a whole number; got {number!r}")
