"""Numbers as a log has them: from text to a number, and from a count to a category."""

import math

_LARGEST_WHOLE = 2


def as_number(text: str) -> float:
    """A finite number of a text.

    Args:
        text: The text.

    Returns:
        The number.

    Raises:
        ValueError: It is none; the text is the error's argument.
    """
    try:
        number = float(text)
    except ValueError:
        raise ValueError(text) from None
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def log_category(number: float) -> int:
    """The whole number that stands for a count.

    Args:
        number: The count v; missing ones excepted.

    Returns:
        floor(log(v)^2) for v > 2, from 1; floor(v) - 2 from there down to v = -2, and below it
        -5 - floor(log(-v)^2).

    Source: the winners of Kaggle's contest on Criteo's log, for v above -3.
    """
    if number > _LARGEST_WHOLE:
        return math.floor(math.log(number) ** 2)
    if number >= -_LARGEST_WHOLE:
        return math.floor(number) - 2
    return -5 - math.floor(math.log(-number) ** 2)
