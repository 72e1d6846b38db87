# SPDX-License-Identifier: BSD-3-Clause
"""Numbers of which the verifier knows something: bits (tnum), unsigned and signed bounds of all 64 bits, and signed
bounds of the low 32.

Every operation gives a number that contains each result that the machine could compute; a comparison narrows
its operands, or says that it cannot turn out this way.
"""

from __future__ import annotations

from typing import NamedTuple

from overlays.bpf.isa import signed

U64, U32 = (1 << 64) - 1, (1 << 32) - 1
S64_MIN, S64_MAX = -(1 << 63), (1 << 63) - 1
S32_MIN, S32_MAX = -(1 << 31), (1 << 31) - 1


class Contradiction(Exception):
    """An operation left no number: what was known of its operands cannot all be true."""


class Scalar(NamedTuple):
    """Bits outside `mask` are those of `value`; the bounds hold too. Equal ids mean equal numbers."""

    value: int
    mask: int
    umin: int
    umax: int
    smin: int
    smax: int
    lmin: int = S32_MIN
    lmax: int = S32_MAX
    id: int = 0

    @property
    def is_const(self) -> bool:
        return self.umin == self.umax

    def __str__(self) -> str:
        if self.is_const:
            number = signed(self.value, 64)
            return str(number) if -4096 < number < 4096 else f"{self.value:#x}"
        if self[2:6] == (0, U64, S64_MIN, S64_MAX):
            return "any number"
        if self.umax <= S64_MAX or (self.smin < 0 and self.smax == S64_MAX):
            return f"{self.umin}..{self.umax}"
        return f"{self.smin}..{self.smax}"


UNKNOWN = Scalar(0, U64, 0, U64, S64_MIN, S64_MAX)


def const(value: int) -> Scalar:
    value &= U64
    s, low = signed(value, 64), signed(value, 32)
    return Scalar(value, 0, value, value, s, s, low, low)


def between(umin: int, umax: int) -> Scalar:
    """An unsigned range."""
    return _known(make(0, U64, umin, umax, S64_MIN, S64_MAX))


def between_signed(smin: int, smax: int) -> Scalar:
    return _known(make(0, U64, 0, U64, smin, smax))


def _known(found: Scalar | None) -> Scalar:
    """For facts that an operation has shown; that they contradict each other should not be."""
    if found is None:
        raise Contradiction
    return found


def make(
    value: int,
    mask: int,
    umin: int,
    umax: int,
    smin: int,
    smax: int,
    lmin: int = S32_MIN,
    lmax: int = S32_MAX,
    id_: int = 0,
) -> Scalar | None:
    """Let bits and bounds narrow each other. None: no number fits."""
    for _ in range(2):
        umin, umax = max(umin, value), min(umax, value | mask)
        if umin > umax:
            return None
        # signed from unsigned, if the sign is the same all over
        if umin >> 63 == umax >> 63:
            smin, smax = max(smin, signed(umin, 64)), min(smax, signed(umax, 64))
        if smin > smax:
            return None
        if (smin < 0) == (smax < 0):
            umin, umax = max(umin, smin & U64), min(umax, smax & U64)
            if umin > umax:
                return None
        if umax <= U32:
            # the low half is all
            if umin >> 31 == umax >> 31:
                lmin, lmax = max(lmin, signed(umin, 32)), min(lmax, signed(umax, 32))
            if lmin > lmax:
                return None
            if (lmin < 0) == (lmax < 0):
                umin, umax = max(umin, lmin & U32), min(umax, lmax & U32)
                if umin > umax:
                    return None
        # bits from bounds: what both ends have in common above their first difference
        unknown = (1 << (umin ^ umax).bit_length()) - 1
        if (value ^ umin) & ~(mask | unknown):
            return None
        value, mask = (value | umin & ~unknown) & U64, mask & unknown
        value &= ~mask
    return Scalar(value, mask, umin, umax, smin, smax, lmin, lmax, id_)


def intersect(a: Scalar, b: Scalar) -> Scalar | None:
    """What is known of a number that is both; the id of a."""
    if (a.value ^ b.value) & ~a.mask & ~b.mask & U64:
        return None
    mask = a.mask & b.mask
    return make(
        (a.value | b.value) & ~mask,
        mask,
        max(a.umin, b.umin),
        min(a.umax, b.umax),
        max(a.smin, b.smin),
        min(a.smax, b.smax),
        max(a.lmin, b.lmin),
        min(a.lmax, b.lmax),
        a.id,
    )


def covers(a: Scalar, b: Scalar) -> bool:
    """Each number of b is one of a."""
    return (
        a.umin <= b.umin
        and b.umax <= a.umax
        and a.smin <= b.smin
        and b.smax <= a.smax
        and a.lmin <= b.lmin
        and b.lmax <= a.lmax
        and not b.mask & ~a.mask
        and not (a.value ^ b.value) & ~a.mask & U64
    )


# ---- operations of 64 bits


def _bits(value: int, mask: int) -> Scalar:
    mask &= U64
    return _known(make(value & ~mask & U64, mask, 0, U64, S64_MIN, S64_MAX))


def _add(a: Scalar, b: Scalar) -> Scalar:
    sum_mask = a.mask + b.mask
    sum_value = a.value + b.value
    mask = ((sum_mask + sum_value) ^ sum_value) | a.mask | b.mask
    umin, umax = a.umin + b.umin, a.umax + b.umax
    smin, smax = a.smin + b.smin, a.smax + b.smax
    if umax > U64:
        umin, umax = (umin & U64, umax & U64) if umin > U64 else (0, U64)
    if smin < S64_MIN or smax > S64_MAX:
        smin, smax = S64_MIN, S64_MAX
    mask &= U64
    return _known(make(sum_value & ~mask & U64, mask, umin, umax, smin, smax))


def negated(a: Scalar) -> Scalar:
    """0 - a"""
    return _sub(const(0), a)


def _sub(a: Scalar, b: Scalar) -> Scalar:
    difference = (a.value - b.value) & U64
    alpha, beta = (difference + a.mask) & U64, (difference - b.mask) & U64
    mask = (alpha ^ beta) | a.mask | b.mask
    umin, umax = a.umin - b.umax, a.umax - b.umin
    smin, smax = a.smin - b.smax, a.smax - b.smin
    if umin < 0:
        umin, umax = (umin & U64, umax & U64) if umax < 0 else (0, U64)
    if smin < S64_MIN or smax > S64_MAX:
        smin, smax = S64_MIN, S64_MAX
    return _known(make(difference & ~mask & U64, mask, umin, umax, smin, smax))


def _mul(a: Scalar, b: Scalar) -> Scalar:
    if a.umax * b.umax <= U64:
        trailing = _trailing_zeros(a) + _trailing_zeros(b)
        mask = U64 & ~((1 << min(trailing, 64)) - 1)
        return _known(make(0, mask, a.umin * b.umin, a.umax * b.umax, S64_MIN, S64_MAX))
    return UNKNOWN


def _trailing_zeros(a: Scalar) -> int:
    bits = a.value | a.mask
    return (bits & -bits).bit_length() - 1 if bits else 64


def _div(a: Scalar, b: Scalar) -> Scalar:
    if b.umax == 0:
        return const(0)
    low = a.umin // b.umax if b.umin > 0 else 0
    return between(low, a.umax // max(b.umin, 1))


def _mod(a: Scalar, b: Scalar) -> Scalar:
    if b.umin > 0:
        return between(0, min(a.umax, b.umax - 1)) if a.umax >= b.umin else a._replace(id=0)
    return between(0, a.umax)  # by zero leaves the number


def _and(a: Scalar, b: Scalar) -> Scalar:
    alpha, beta = a.value | a.mask, b.value | b.mask
    value = a.value & b.value
    mask = alpha & beta & ~value
    return _known(make(value, mask, value, min(a.umax, b.umax), S64_MIN, S64_MAX))


def _or(a: Scalar, b: Scalar) -> Scalar:
    value = a.value | b.value
    mask = (a.mask | b.mask) & ~value
    return _known(make(value, mask, max(a.umin, b.umin), U64, S64_MIN, S64_MAX))


def _xor(a: Scalar, b: Scalar) -> Scalar:
    mask = a.mask | b.mask
    return _bits((a.value ^ b.value) & ~mask, mask)


def _lsh(a: Scalar, b: Scalar) -> Scalar:
    if not b.is_const:
        if b.umax < 64 and a.umax << b.umax <= U64:
            return between(a.umin << b.umin, a.umax << b.umax)
        return UNKNOWN
    count = b.value & 63
    umin, umax = a.umin << count, a.umax << count
    if umax > U64:
        umin, umax = 0, U64
    smin, smax = a.smin << count, a.smax << count
    if smin < S64_MIN or smax > S64_MAX:
        smin, smax = S64_MIN, S64_MAX
    return _known(make(a.value << count & U64, a.mask << count & U64, umin, umax, smin, smax))


def _rsh(a: Scalar, b: Scalar) -> Scalar:
    if not b.is_const:
        return between(a.umin >> b.umax, a.umax >> b.umin) if b.umax < 64 else between(0, a.umax)
    count = b.value & 63
    return _known(
        make(a.value >> count, a.mask >> count, a.umin >> count, a.umax >> count, S64_MIN, S64_MAX)
    )


def _arsh(a: Scalar, b: Scalar) -> Scalar:
    if not b.is_const:
        if b.umax < 64:
            ends = [s >> c for s in (a.smin, a.smax) for c in (b.umin, b.umax)]
            return between_signed(min(ends), max(ends))
        return between_signed(min(a.smin, 0), max(a.smax, 0)) if a.smin >= 0 else UNKNOWN
    count = b.value & 63
    # An unknown sign bit makes all copies of it unknown.
    mask = signed(a.mask, 64) >> count & U64
    value = signed(a.value, 64) >> count & U64 & ~mask
    return _known(make(value, mask, 0, U64, a.smin >> count, a.smax >> count))


# ---- operations as instructions have them


def truncate(a: Scalar, bits: int = 32) -> Scalar:
    """The low bits, the rest zero."""
    low = (1 << bits) - 1
    if a.umax <= low:
        return a
    if a.umin >> bits == a.umax >> bits:
        umin, umax = a.umin & low, a.umax & low
    else:
        umin, umax = 0, low
    lmin, lmax = S32_MIN, S32_MAX
    if bits == 32:
        lmin, lmax = a.lmin, a.lmax
        if a.smin >= S32_MIN and a.smax <= S32_MAX:
            lmin, lmax = max(lmin, a.smin), min(lmax, a.smax)
    return _known(make(a.value & low, a.mask & low, umin, umax, S64_MIN, S64_MAX, lmin, lmax))


def sign_extend(a: Scalar, bits: int) -> Scalar:
    """The low bits as a signed number."""
    if a.smin >= -(1 << (bits - 1)) and a.smax < 1 << (bits - 1):
        return a
    shift = const(64 - bits)
    result = _arsh(_lsh(a, shift), shift)
    return _known(_bounded(result, smin=a.lmin, smax=a.lmax)) if bits == 32 else result


def _sdiv(a: int, b: int) -> int:
    if b == 0:
        return 0
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


def _signed_op(op: str, a: Scalar, b: Scalar, bits: int) -> Scalar:
    """Signed division: exact for constants, bounds for a constant divisor."""
    a, b = sign_extend(a, bits), sign_extend(b, bits)
    divisor = signed(b.value, 64)
    if not b.is_const or divisor == -1:
        if a.is_const and b.is_const and op == "sdiv":
            return const(-a.smin)
        return const(0) if op == "smod" and b.is_const else UNKNOWN
    if divisor == 0:
        return const(0) if op == "sdiv" else a
    if op == "sdiv":
        ends = [_sdiv(end, divisor) for end in (a.smin, a.smax)]
        return between_signed(min(ends), max(ends))
    if a.is_const:
        return const(a.smin - divisor * _sdiv(a.smin, divisor))
    most = abs(divisor) - 1
    return between_signed(-most if a.smin < 0 else 0, most if a.smax > 0 else 0)


_OPERATIONS = {
    "add": _add,
    "sub": _sub,
    "mul": _mul,
    "div": _div,
    "mod": _mod,
    "and": _and,
    "or": _or,
    "xor": _xor,
    "lsh": _lsh,
    "rsh": _rsh,
    "arsh": _arsh,
}


def operate(op: str, a: Scalar, b: Scalar, bits: int) -> Scalar:
    """An arithmetic instruction: `op` as in isa.ALU_OPS, or sdiv or smod."""
    if op in ("sdiv", "smod"):
        result = _signed_op(op, a, b, bits)
        return truncate(result, bits)._replace(id=0) if bits == 32 else result._replace(id=0)
    if bits == 32:
        a, b = truncate(a), truncate(b)
    if op in ("lsh", "rsh", "arsh"):
        # Counts are taken modulo the width.
        b = (
            const(b.value & (bits - 1))
            if b.is_const
            else b
            if b.umax < bits
            else between(0, bits - 1)
        )
    if op == "arsh" and bits == 32:
        a = sign_extend(a, 32)
    result = _OPERATIONS[op](a, b)
    if bits == 32:
        result = truncate(result)
    return result._replace(id=0)


def swap(a: Scalar, bits: int) -> Scalar:
    """Byte swap of the low bits."""
    if a.is_const:
        low = a.value & ((1 << bits) - 1)
        return const(int.from_bytes(low.to_bytes(bits // 8, "little"), "big"))
    return between(0, (1 << bits) - 1)


# ---- comparisons

_NEGATION = {
    "jeq": "jne", "jne": "jeq", "jgt": "jle", "jle": "jgt", "jge": "jlt", "jlt": "jge",
    "jsgt": "jsle", "jsle": "jsgt", "jsge": "jslt", "jslt": "jsge", "jset": "!jset",
}  # fmt: skip
_MIRROR = {"jgt": "jlt", "jge": "jle", "jsgt": "jslt", "jsge": "jsle"}


def _bounded(a: Scalar, **bounds: int) -> Scalar | None:
    return make(
        a.value,
        a.mask,
        max(a.umin, bounds.get("umin", 0)),
        min(a.umax, bounds.get("umax", U64)),
        max(a.smin, bounds.get("smin", S64_MIN)),
        min(a.smax, bounds.get("smax", S64_MAX)),
        a.lmin,
        a.lmax,
        a.id,
    )


def _without(a: Scalar, number: int) -> Scalar | None:
    """a, if it is known not to be a number: only an end of a range can be cut off."""
    if a.is_const and a.value == number:
        return None
    s = signed(number, 64)
    return _bounded(
        a,
        umin=a.umin + (a.umin == number),
        umax=a.umax - (a.umax == number),
        smin=a.smin + (a.smin == s),
        smax=a.smax - (a.smax == s),
    )


def _assume(op: str, a: Scalar, b: Scalar) -> tuple[Scalar | None, Scalar | None]:
    if op == "jeq":
        return intersect(a, b), intersect(b, a)
    if op == "jne":
        return (
            _without(a, b.value) if b.is_const else a,
            _without(b, a.value) if a.is_const else b,
        )
    if op == "jset":
        dead = not (a.value | a.mask) & (b.value | b.mask)
        return (None, None) if dead else (a, b)
    if op == "!jset":
        if a.value & b.value:
            return None, None
        narrowed: Scalar | None = a
        if b.is_const:
            narrowed = intersect(a, _bits(0, U64 & ~b.value))
        return narrowed, b
    if op in ("jlt", "jle"):
        less = op == "jlt"
        if b.umax < less or a.umin > U64 - less:
            return None, None
        return _bounded(a, umax=b.umax - less), _bounded(b, umin=a.umin + less)
    less = op == "jslt"
    if b.smax - less < S64_MIN or a.smin + less > S64_MAX:
        return None, None
    return _bounded(a, smax=b.smax - less), _bounded(b, smin=a.smin + less)


def compare(op: str, a: Scalar, b: Scalar, taken: bool, bits: int) -> tuple[Scalar, Scalar] | None:
    """The operands if a conditional jump is, or is not, taken. None: it cannot be so."""
    if not taken:
        op = _NEGATION[op]
    if op in _MIRROR:
        found = compare(_MIRROR[op], b, a, True, bits)
        return (found[1], found[0]) if found else None
    if bits == 64:
        left, right = _assume(op, a, b)
        return (left, right) if left is not None and right is not None else None
    low_a, low_b = truncate(a), truncate(b)
    if op in ("jslt", "jsle"):
        left, right = _assume(op, sign_extend(low_a, 32), sign_extend(low_b, 32))
        left = intersect(low_a, truncate(left)) if left is not None else None
        right = intersect(low_b, truncate(right)) if right is not None else None
    else:
        left, right = _assume(op, low_a, low_b)
    if left is None or right is None:
        return None
    # The upper half says nothing about the lower one; without it the lower half is all.
    return (
        left._replace(id=a.id) if a.umax <= U32 else a,
        right._replace(id=b.id) if b.umax <= U32 else b,
    )
