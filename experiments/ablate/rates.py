"""The learning rates of a level: which are tried, which is the best, and which are tried next. findings.py calls it.

    first(0.02)                                   # ("0.01", "0.02", "0.04")
    wider([Tried("0.01", 0, 0, 0.3), ...], 9)     # ("0.08", "0.16") if 0.04 was the best: a better one may lie beyond

The rates make a logarithmic grid. It is widened until the best rate has a worse one on either side.
"""

from collections.abc import Sequence
from typing import NamedTuple

AUTO = "auto"  # in place of rates: find them
STEP = 2  # the ratio of neighbouring rates
MORE = 2  # rates that are added at once, since each program has to be compiled
BUDGET = 9  # rates of a level at most, unless the command says another number


class Tried(NamedTuple):
    """A rate at which a level was trained, and what came of its networks."""

    rate: str
    diverged: int  # networks
    stalled: int  # networks that never learnt
    validation_error: float  # the mean, a fraction

    @property
    def rank(self) -> tuple[int, float]:
        """The lowest is the best: first few diverged networks count, then the error."""
        return self.diverged, self.validation_error

    @property
    def in_words(self) -> str:
        lost = f" ({self.diverged} diverged)" * bool(self.diverged)
        return f"{100 * self.validation_error:.2f} %{lost} at {self.rate}"


def first(rate: float) -> tuple[str, ...]:
    """The first rates to try, around the config's."""
    return tuple(_text(rate * STEP**power) for power in (-1, 0, 1))


def best(tried: Sequence[Tried]) -> Tried:
    """The rate at which the level is compared with others."""
    return min(ascending(tried), key=lambda each: each.rank)


def at_an_end(tried: Sequence[Tried]) -> bool:
    """Whether the best rate is the smallest or the largest one, so that a better one may lie beyond."""
    return best(tried) in (ascending(tried)[0], ascending(tried)[-1])


def wider(tried: Sequence[Tried], budget: int) -> tuple[str, ...]:
    """The rates to try next: beyond the best one if that is at an end; none if it isn't, or if `budget` rates have been tried."""
    if not at_an_end(tried):
        return ()
    power = -1 if best(tried) == ascending(tried)[0] else 1
    end = float(best(tried).rate)
    return tuple(_text(end * STEP ** (power * (i + 1))) for i in range(min(MORE, budget - len(tried))))


def highest_that_learns(tried: Sequence[Tried]) -> str:
    """The highest rate at which every network learns, in words."""
    learning = [each for each in ascending(tried) if not (each.diverged or each.stalled)]
    if not learning:
        return "none of those tried"
    return learning[-1].rate + " or more" * (learning[-1] == ascending(tried)[-1])


def ascending(tried: Sequence[Tried]) -> list[Tried]:
    return sorted(tried, key=lambda each: float(each.rate))


def _text(rate: float) -> str:
    return f"{rate:.4g}"
