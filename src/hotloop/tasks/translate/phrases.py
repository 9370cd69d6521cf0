"""Generated pairs: numbers and dates in English words, and how they are written in Chinese. Made from a seed.

Every phrase has one right translation, so exact match is an honest measure. All wordings of one number or one day are
one group: what is validated on was never seen in any wording.
"""

from __future__ import annotations

import datetime

import numpy as np

from hotloop.tasks.translate.pairs import Pairs

_PURPOSE = 24
_ONES = (
    ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    + ("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_MONTHS = (
    ("January", "February", "March", "April", "May", "June")
    + ("July", "August", "September", "October", "November", "December")
)  # fmt: skip
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_DIGITS, _DAY_SIGNS = "零一二三四五六七八九", "一二三四五六日"
_LARGEST = 10_000
_FIRST_DAY = datetime.date(1950, 1, 1).toordinal()
_SPAN = 36_500  # days


def number_phrases(count: int, seed: int) -> Pairs:
    """So many pairs, half numbers below 10,000 and half days from 1950 on, called generated.

    Args:
        count: pairs; fewer where a wording comes twice.
        seed: another one draws others.
    """
    draw = np.random.default_rng([seed, _PURPOSE])
    found: dict[str, tuple[str, str]] = {}
    for place in range(count):
        source, target, group = _number(draw) if place % 2 == 0 else _date(draw)
        found.setdefault(source, (target, group))
    src, rest = list(found), list(found.values())
    name = "generated phrases"
    note = f"{name}: {len(src):,} numbers and dates in English and Chinese"
    return Pairs(name, src, [target for target, _ in rest], groups=[group for _, group in rest], notes=[note])


def _number(draw: np.random.Generator) -> tuple[str, str, str]:
    digits = int(draw.integers(1, 5))  # as many short ones as long ones
    value = int(draw.integers(10 ** (digits - 1) if digits > 1 else 0, 10**digits))
    return english_number(value), chinese_number(value), f"number {value}"


def _date(draw: np.random.Generator) -> tuple[str, str, str]:
    day = datetime.date.fromordinal(_FIRST_DAY + int(draw.integers(_SPAN)))
    month, week = _MONTHS[day.month - 1], _DAYS[day.weekday()]
    written = f"{day.year}年{day.month}月{day.day}日"
    kind = int(draw.integers(3))
    if kind == 0:
        return f"{week}, {month} {day.day}, {day.year}", f"{written}星期{_DAY_SIGNS[day.weekday()]}", f"day {day}"
    source = f"{day.day} {month} {day.year}" if kind == 1 else f"{month} {day.day}, {day.year}"
    return source, written, f"day {day}"


def english_number(value: int) -> str:
    """312 -> three hundred and twelve; 0 to 9,999."""
    assert 0 <= value < _LARGEST
    if value < 20:
        return _ONES[value]
    if value < 100:
        tens, rest = divmod(value, 10)
        return _TENS[tens - 2] + (f"-{_ONES[rest]}" if rest else "")
    if value < 1000:
        hundreds, rest = divmod(value, 100)
        return f"{_ONES[hundreds]} hundred" + (f" and {english_number(rest)}" if rest else "")
    thousands, rest = divmod(value, 1000)
    joint = " and " if rest < 100 else " "
    return f"{_ONES[thousands]} thousand" + (f"{joint}{english_number(rest)}" if rest else "")


def chinese_number(value: int) -> str:
    """312 -> 三百一十二; 10 to 19 begin with 十; a gap of zeros is one 零."""
    assert 0 <= value < _LARGEST
    if value < 10:
        return _DIGITS[value]
    if value < 20:
        return "十" + (_DIGITS[value - 10] if value > 10 else "")
    text, gap = "", False
    for unit, sign in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
        digit = value // unit % 10
        if digit:
            text += ("零" if gap and text else "") + _DIGITS[digit] + sign
            gap = False
        else:
            gap = True
    return text
