"""Logarithm and exponential on integers, so that every replica gets the same bits.

libm and numpy differ in the last place between platforms; integer arithmetic does not. Arguments and results are in
units of 2**-32 ("q32"). Tables are built at import from integer series in 96-bit fixed point.

Error bounds, checked in the tests against 60-digit decimals: `ln_q32` and `log_mean_exp_q32` are within 1 unit of
2**-32 of the true value (half of it is rounding), `exp_q` within 8 units of 2**-62.
"""

from __future__ import annotations

from collections.abc import Sequence

Q32_BITS = 32
EXP_BITS = 62  # exp_q returns a fraction in units of 2**-62
_WORK = 96
_TABLE_BITS = 8
_TABLE = 1 << _TABLE_BITS


def _ln_of_ratio(numerator: int, denominator: int) -> int:
    """ln(numerator/denominator), close to one, in units of 2**-96: 2·atanh((a-b)/(a+b)) as a series."""
    z = ((numerator - denominator) << _WORK) // (numerator + denominator)
    square = z * z >> _WORK
    total, power, k = 0, z, 1
    while power not in (0, -1):
        total += power // k
        power = power * square >> _WORK
        k += 2
    return 2 * total


def _exp_of_fraction(numerator: int, denominator: int) -> int:
    """exp(-numerator/denominator) for a fraction in [0, 1), in units of 2**-96: the Taylor series."""
    total, term, k = 0, 1 << _WORK, 0
    while term:
        total += -term if k & 1 else term
        k += 1
        term = term * numerator // (denominator * k)
    return total


_LN2 = _ln_of_ratio(4, 3) + _ln_of_ratio(3, 2)
_LN2_Q62 = _LN2 >> (_WORK - EXP_BITS)
# ln(1 + i/256), and exp(-i/2**8), exp(-i/2**16) for the first two bytes of a fraction.
_LN_TABLE = tuple(_ln_of_ratio(_TABLE + i, _TABLE) >> (_WORK - EXP_BITS) for i in range(_TABLE + 1))
_EXP_HIGH = tuple(_exp_of_fraction(i, 1 << 8) >> (_WORK - EXP_BITS) for i in range(_TABLE))
_EXP_LOW = tuple(_exp_of_fraction(i, 1 << 16) >> (_WORK - EXP_BITS) for i in range(_TABLE))


def _whole_powers(count: int) -> tuple[int, ...]:
    """exp(-i) for i < count, in units of 2**-62."""
    half = _exp_of_fraction(1, 2)
    powers = [1 << _WORK]
    while len(powers) < count:
        powers.append(powers[-1] * (half * half >> _WORK) >> _WORK)
    return tuple(power >> (_WORK - EXP_BITS) for power in powers)


_EXP_WHOLE = _whole_powers(44)  # beyond, the value is below 2**-62


def _ln_q62(mantissa: int) -> int:
    """ln(mantissa / 2**62) for a mantissa in [1, 2), in units of 2**-62."""
    index = (mantissa >> (EXP_BITS - _TABLE_BITS)) - _TABLE
    anchor = (_TABLE + index) << (EXP_BITS - _TABLE_BITS)
    z = ((mantissa - anchor) << EXP_BITS) // (mantissa + anchor)  # below 2**-9
    square = z * z >> EXP_BITS
    # atanh z = z + z³/3 + z⁵/5 + ...; the next term is below 2**-65
    series = z + (z * square >> EXP_BITS) // 3 + ((z * square >> EXP_BITS) * square >> EXP_BITS) // 5
    return _LN_TABLE[index] + 2 * series


def ln_q32(numerator: int, denominator: int = 1) -> int:
    """ln(numerator / denominator) in units of 2**-32, within 1 unit. Raises ValueError unless both are positive."""
    if numerator <= 0 or denominator <= 0:
        raise ValueError("a logarithm needs positive integers")
    shift = numerator.bit_length() - denominator.bit_length()
    # Scale to a quotient of 63 or 64 bits, then to a mantissa of exactly 63.
    scale = EXP_BITS + 1 - shift
    quotient = (numerator << scale) // denominator if scale >= 0 else numerator // (denominator << -scale)
    exponent = quotient.bit_length() - 1
    excess = exponent - EXP_BITS
    mantissa = quotient >> excess if excess >= 0 else quotient << -excess
    total = _ln_q62(mantissa) + (exponent - scale) * _LN2_Q62
    return (total + (1 << (EXP_BITS - Q32_BITS - 1))) >> (EXP_BITS - Q32_BITS)


def exp_q(log_q32: int) -> int:
    """exp(log_q32 / 2**32) for log_q32 <= 0, in units of 2**-62, within 8. Raises ValueError above 0."""
    if log_q32 > 0:
        raise ValueError("exp_q is for non-positive logarithms")
    magnitude = -log_q32
    whole = magnitude >> Q32_BITS
    if whole >= len(_EXP_WHOLE):
        return 0
    value = _EXP_WHOLE[whole]
    value = value * _EXP_HIGH[magnitude >> 24 & 255] >> EXP_BITS
    value = value * _EXP_LOW[magnitude >> 16 & 255] >> EXP_BITS
    rest = (magnitude & 0xFFFF) << (EXP_BITS - Q32_BITS)  # below 2**-16
    square = rest * rest >> EXP_BITS
    tail = (1 << EXP_BITS) - rest + square // 2 - (square * rest >> EXP_BITS) // 6
    return value * tail >> EXP_BITS


def log_mean_exp_q32(logs_q32: Sequence[int]) -> int:
    """ln of the mean of exp(x) over `logs_q32`, in units of 2**-32, within 1 unit. Raises ValueError when empty."""
    if not logs_q32:
        raise ValueError("a mean needs at least one value")
    highest = max(logs_q32)
    if min(logs_q32) == highest:
        return highest
    total = sum(exp_q(value - highest) for value in logs_q32)
    return highest + ln_q32(total, len(logs_q32) << EXP_BITS)
