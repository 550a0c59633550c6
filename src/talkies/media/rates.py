"""The constant rate, frames a second, at which a clip of any time stamps is read."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from fractions import Fraction

MAX_RATE = 60
STANDARD_RATES = tuple(
    sorted(
        {Fraction(n) for n in (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 16, 18, 20, 24, 25, 30, 48, 50, 60)}
        | {Fraction(n * 1000, 1001) for n in (12, 15, 24, 30, 48, 60)}
    )
)
DEFAULT_RATE = Fraction(25)  # of a clip of one frame that states none


def find_rate(
    times: Sequence[int], lengths: Sequence[int], timebase: Fraction, stated: Fraction | None
) -> tuple[Fraction, bool]:
    """Return the constant rate of the pictures and False, or a standard rate near their average and True.

    Pictures are evenly spaced if they are within one tick of the file's clock of an even grid, since containers round
    times (Matroska to 1 ms). If several rates fit a short clip, the stated one comes first. A grid with up to a tenth
    of its pictures missing (dropped frames) is variable, but keeps its rate.
    """
    times = sorted(times)
    span = times[-1] - times[0]
    if stated:  # a header rounds it, to 1 ns in Matroska: the standard rate is meant
        off, nearest = min((abs(rate - stated), rate) for rate in STANDARD_RATES)
        stated = nearest if off <= Fraction(1, 100) else stated
    if len(times) < 2 or span == 0:
        length = lengths[0] * timebase
        rate = stated or (1 / length if length > 0 else DEFAULT_RATE)
        return (rate if Fraction(1, 10) <= rate <= MAX_RATE else DEFAULT_RATE), False
    intervals = len(times) - 1
    average = intervals / (span * timebase)

    def is_on_grid(rate: Fraction, slots: Iterable[int]) -> bool:
        step, parts = (1 / (rate * timebase)).as_integer_ratio()  # ticks, times `parts`: whole numbers are quick
        return all(abs((time - times[0]) * parts - i * step) <= parts for time, i in zip(times, slots, strict=False))

    def fits(rate: Fraction) -> bool:
        return is_on_grid(rate, itertools.count())

    def fits_with_gaps(rate: Fraction) -> bool:
        ticks = 1 / (rate * timebase)
        slots = [round((time - times[0]) / ticks) for time in times]
        distinct = all(before < after for before, after in itertools.pairwise(slots))
        if ticks == 1:  # the clock counts pictures (AVI), so every gap is a picture that was dropped
            return rate == stated and distinct
        return ticks >= 8 and distinct and slots[-1] * 9 <= intervals * 10 and is_on_grid(rate, slots)

    lowest, highest = intervals / ((span + 1) * timebase), intervals / (max(span - 1, 1) * timebase)
    even = average if span % intervals == 0 else None
    near = sorted(STANDARD_RATES, key=lambda rate: max(rate / average, average / rate))
    for candidate in [stated, even, *near, simplest_between(lowest, highest)]:
        if candidate and lowest <= candidate <= highest and fits(candidate):
            return candidate, False
    for candidate in [stated, *near]:
        if candidate and fits_with_gaps(candidate):
            return candidate, True
    return near[0], True


def simplest_between(low: Fraction, high: Fraction) -> Fraction:
    """Return the fraction of the smallest denominator in [low, high], 0 < low <= high."""
    whole = -(-low // 1)  # the next whole number
    if whole <= high:
        return Fraction(whole)
    below = low // 1
    return below + 1 / simplest_between(1 / (high - below), 1 / (low - below))
