"""Money as integers: 1 US dollar is 10**12 pico-dollars, held in signed 64 bits.

No float touches money. One event or one sum of events is at most 9.2 M USD; a larger sum is an
error, never a wrap-around.
"""

from __future__ import annotations

from decimal import Context, Decimal, InvalidOperation, Overflow

PUSD_PER_USD = 10**12
INT64_MAX = 2**63 - 1
_EXACT = Context(prec=60)


def pusd(value: str | int | Decimal) -> int:
    """Pico-dollars of an amount in US dollars.

    Raises ValueError when the amount is not a finite number, is finer than one pico-dollar or
    does not fit into 64 bits.
    """
    try:
        scaled = _EXACT.multiply(Decimal(value), Decimal(PUSD_PER_USD))
    except Overflow as error:
        raise ValueError(f"{value!r} is out of range") from error
    except InvalidOperation as error:
        raise ValueError(f"not an amount of money: {value!r}") from error
    if not scaled.is_finite() or scaled != scaled.to_integral_value():
        raise ValueError(f"{value} USD is not a whole number of pico-dollars")
    amount = int(scaled)
    if abs(amount) > INT64_MAX:
        raise ValueError(f"{value} USD is beyond 64 bits of pico-dollars (about 9.2 M USD)")
    return amount


def usd(amount_pusd: int) -> Decimal:
    """US dollars of an integer amount of pico-dollars, exact."""
    return Decimal(amount_pusd).scaleb(-12, _EXACT)


def format_usd(amount_pusd: int, places: int = 6) -> str:
    """An amount for people: dollars with `places` decimals, rounded half even."""
    return f"{usd(amount_pusd):,.{places}f}"


def clamped(amount: int) -> int:
    """The nearest amount within 64 bits, for what is shown or granted and never added up."""
    return max(-INT64_MAX, min(INT64_MAX, amount))


def checked_sum(left: int, right: int) -> int:
    """`left + right`, or OverflowError where the sum leaves 64 bits."""
    total = left + right
    if abs(total) > INT64_MAX:
        raise OverflowError(f"{left} + {right} leaves 64 bits")
    return total
