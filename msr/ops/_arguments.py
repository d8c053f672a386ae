"""Whole numbers as arguments: a sentence where something else comes."""

from collections.abc import Sequence

Pair = int | Sequence[int]  # down and right, or one number for both


def pair(op: str, name: str, value: Pair, least: int = 0) -> list[int]:
    """Return the two numbers, down and right, that one or two stand for; NumPy's count too."""
    numbers = list(value) if isinstance(value, Sequence) else [value, value]
    if len(numbers) != 2 or not all(map(is_whole, numbers)) or min(numbers) < least:
        raise ValueError(f"{op} {name} is a whole number of at least {least} or a pair (down, right); got {value!r}")
    return [n if isinstance(n, int) else n.__index__() for n in numbers]


def check_whole(op: str, **numbers: int) -> None:
    """Raise ValueError where one is no whole number."""
    for name, number in numbers.items():
        if not is_whole(number):
            raise ValueError(f"{op} {name} is a whole number; got {number!r}")


def is_whole(number: object) -> bool:
    """Return whether it counts something."""
    # What torch.compile knows of a size is an int to it, but has no attributes.
    return isinstance(number, int) or hasattr(number, "__index__")
