"""Vectors for kernels: small arrays of numbers that one processor instruction computes with.

Numba compiles each function here to one or two instructions; LLVM splits a vector where the
processor's registers are shorter. Kernels are ordinary Python that calls them::

    total = zeros()
    for i in range(0, columns, 8):
        total = fma(load_f32(weight + 4 * i), load_f32(x + 4 * i), total)

Memory is given as an address in bytes (int64), because one kernel serves weights of many types.
Vectors of one type can be added, subtracted and multiplied with operators.
"""

import inspect
import operator
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import njit, types
from numba.core.cgutils import get_or_insert_function
from numba.core.extending import intrinsic, models, overload, register_model

from llama_cpu.kernels.layout import UPPER_BYTE

# The decorator of all functions that are compiled into kernels.
_SETTINGS: dict[str, Any] = {
    "error_model": "numpy",
    "fastmath": {"contract", "reassoc", "nsz", "arcp"},
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}
compiled = njit(**_SETTINGS)

_I1, _I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
_HALF, _FLOAT = ir.HalfType(), ir.FloatType()
_FAST = ("contract", "reassoc", "nsz", "arcp")


class Vector(types.Type):
    """The Numba type of a vector."""

    def __init__(self, name: str, element: ir.Type, length: int) -> None:
        self.ir = ir.VectorType(element, length)
        self.is_float = element == _FLOAT
        super().__init__(name=name)


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    """Says that Numba keeps a ``Vector`` in a register."""

    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, vector.ir)


F32X8 = Vector("f32x8", _FLOAT, 8)
F32X2 = Vector("f32x2", _FLOAT, 2)
I32X8 = Vector("i32x8", _I32, 8)
I8X32 = Vector("i8x32", _I8, 32)
I8X16 = Vector("i8x16", _I8, 16)

Emit = Callable[[ir.IRBuilder, Sequence[Any]], Any]  # (builder, arguments) -> result


def _operation(result: Any, *arguments: Any) -> Callable[[Emit], Any]:
    """Make a Numba intrinsic of a function that emits LLVM instructions."""

    def decorate(emit: Emit) -> Any:
        def codegen(
            context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[Any]
        ) -> Any:
            value = emit(builder, args)
            return context.get_dummy_value() if result is types.void else value

        def typed(typing_context: Any, *given: Any) -> Any:
            return result(*arguments), codegen

        names = ["typing_context", *(f"argument_{index}" for index in range(len(arguments)))]
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters = [inspect.Parameter(name, kind) for name in names]
        typed.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        typed.__name__ = emit.__name__
        function = intrinsic(typed)
        function.__doc__ = emit.__doc__
        return function

    return decorate


def _pointer(builder: ir.IRBuilder, address: Any, kind: ir.Type) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


def _load(builder: ir.IRBuilder, address: Any, kind: ir.Type) -> Any:
    return builder.load(_pointer(builder, address, kind), align=1)


def _store(builder: ir.IRBuilder, address: Any, value: Any) -> None:
    builder.store(value, _pointer(builder, address, value.type), align=1)


def _all(vector: ir.VectorType, value: float) -> ir.Constant:
    return ir.Constant(vector, [value] * vector.count)


def _shuffle(builder: ir.IRBuilder, one: Any, other: Any, lanes: Sequence[int]) -> Any:
    return builder.shuffle_vector(
        one, other, ir.Constant(ir.VectorType(_I32, len(lanes)), list(lanes))
    )


def _splat(builder: ir.IRBuilder, scalar: Any, length: int) -> Any:
    vector = ir.Constant(ir.VectorType(scalar.type, length), ir.Undefined)
    vector = builder.insert_element(vector, scalar, _I32(0))
    return _shuffle(builder, vector, vector, [0] * length)


def _call(builder: ir.IRBuilder, name: str, result: ir.Type, *args: Any, **options: Any) -> Any:
    kind = ir.FunctionType(result, [each.type for each in args])
    return builder.call(get_or_insert_function(builder.module, kind, name), args, **options)


# Scalars in memory


@_operation(types.int64, types.int64)
def i64_at(builder, args):
    """Return the int64 at an address."""
    return _load(builder, args[0], _I64)


@_operation(types.int64, types.int64, types.int64)
def field(builder, args):
    """Return a field of a table of int64 at an address.

    As a function of Numba's, it would be compiled once more for each index that is a constant.
    """
    return _load(builder, builder.add(args[0], builder.shl(args[1], _I64(3))), _I64)


@_operation(types.int64, types.int64)
def u32_at(builder, args):
    """Return the unsigned 32-bit integer at an address, as int64."""
    return builder.zext(_load(builder, args[0], _I32), _I64)


@_operation(types.int64, types.int64)
def u16_at(builder, args):
    """Return the unsigned 16-bit integer at an address, as int64."""
    return builder.zext(_load(builder, args[0], _I16), _I64)


@_operation(types.float32, types.int64)
def f32_at(builder, args):
    """Return the float32 at an address."""
    return _load(builder, args[0], _FLOAT)


@_operation(types.float32, types.int64)
def f16_at(builder, args):
    """Return the float16 at an address, as float32."""
    bits = builder.zext(_load(builder, args[0], _I16), _I32)  # see f16_pair
    vector = builder.fpext(builder.bitcast(bits, ir.VectorType(_HALF, 2)), F32X2.ir)
    return builder.extract_element(vector, _I32(0))


@_operation(types.float32, types.int64)
def bf16_at(builder, args):
    """Return the bfloat16 at an address, as float32."""
    bits = builder.zext(_load(builder, args[0], _I16), _I32)
    return builder.bitcast(builder.shl(bits, _I32(16)), _FLOAT)


@_operation(types.float32, types.int64)
def i8_at(builder, args):
    """Return the int8 at an address, as float32."""
    return builder.sitofp(_load(builder, args[0], _I8), _FLOAT)


@_operation(types.void, types.int64, types.int64)
def set_i64(builder, args):
    """Write an int64 to an address."""
    _store(builder, args[0], args[1])


@_operation(types.void, types.int64, types.float32)
def set_f32(builder, args):
    """Write a float32 to an address."""
    _store(builder, args[0], args[1])


@_operation(types.void, types.int64, types.float32)
def set_f16(builder, args):
    """Write a float32, rounded to float16, to an address."""
    vector = builder.insert_element(_all(F32X2.ir, 0.0), args[1], _I32(0))
    halves = builder.fptrunc(vector, ir.VectorType(_HALF, 2))
    _store(builder, args[0], builder.extract_element(halves, _I32(0)))


@_operation(types.void, types.int64, types.float32)
def set_i8(builder, args):
    """Write a float32 that is a whole number from -128 to 127 to an address, as int8."""
    _store(builder, args[0], builder.fptosi(args[1], _I8))


# Vectors in memory


@_operation(F32X8, types.int64)
def load_f32(builder, args):
    """Return the 8 float32 at an address."""
    return _load(builder, args[0], F32X8.ir)


@_operation(F32X8, types.int64)
def load_f16(builder, args):
    """Return the 8 float16 at an address, as float32."""
    return builder.fpext(_load(builder, args[0], ir.VectorType(_HALF, 8)), F32X8.ir)


@_operation(F32X8, types.int64)
def load_bf16(builder, args):
    """Return the 8 bfloat16 at an address, as float32: their bits are the upper half."""
    bits = builder.zext(_load(builder, args[0], ir.VectorType(_I16, 8)), I32X8.ir)
    return builder.bitcast(builder.shl(bits, _all(I32X8.ir, 16)), F32X8.ir)


@_operation(F32X8, types.int64)
def load_i8(builder, args):
    """Return the 8 int8 at an address, as float32."""
    return builder.sitofp(_load(builder, args[0], ir.VectorType(_I8, 8)), F32X8.ir)


@_operation(F32X8, types.int64)
def bytes_to_f32(builder, args):
    """Return the 8 bytes of an int64, lowest first, as float32."""
    return builder.uitofp(builder.bitcast(args[0], ir.VectorType(_I8, 8)), F32X8.ir)


@_operation(F32X2, types.int64)
def load_pair(builder, args):
    """Return the 2 float32 at an address."""
    return _load(builder, args[0], F32X2.ir)


@_operation(F32X2, types.int64, types.int64)
def f16_pair(builder, args):
    """Return the float16 at two addresses, as float32."""
    # Put together in an integer: inserting numbers into a vector register makes the processor wait
    # for whatever that register held before.
    low, high = (builder.zext(_load(builder, address, _I16), _I32) for address in args)
    both = builder.or_(low, builder.shl(high, _I32(16)))
    vector = builder.bitcast(both, ir.VectorType(_HALF, 2))
    return builder.fpext(vector, F32X2.ir)


@_operation(I8X32, types.int64)
def load_32_bytes(builder, args):
    """Return the 32 bytes at an address."""
    return _load(builder, args[0], I8X32.ir)


@_operation(I8X16, types.int64)
def load_16_bytes(builder, args):
    """Return the 16 bytes at an address."""
    return _load(builder, args[0], I8X16.ir)


@_operation(types.void, types.int64, F32X8)
def store_f32(builder, args):
    """Write 8 float32 to an address."""
    _store(builder, args[0], args[1])


@_operation(types.void, types.int64, F32X8)
def store_bf16(builder, args):
    """Write 8 float32, rounded to the nearest bfloat16 (ties to even), to an address."""
    bits = builder.bitcast(args[1], I32X8.ir)
    odd = builder.and_(builder.lshr(bits, _all(I32X8.ir, 16)), _all(I32X8.ir, 1))
    rounded = builder.add(builder.add(bits, _all(I32X8.ir, 0x7FFF)), odd)
    upper = builder.lshr(rounded, _all(I32X8.ir, 16))
    _store(builder, args[0], builder.trunc(upper, ir.VectorType(_I16, 8)))


@_operation(types.void, types.int64, F32X8)
def store_i8(builder, args):
    """Write 8 float32 that are whole numbers from -128 to 127 to an address, as int8."""
    _store(builder, args[0], builder.fptosi(args[1], ir.VectorType(_I8, 8)))


@_operation(types.void, types.int64, F32X8)
def store_u8(builder, args):
    """Write 8 float32 that are whole numbers from 0 to 255 to an address, as bytes."""
    whole = builder.fptosi(args[1], I32X8.ir)
    _store(builder, args[0], builder.trunc(whole, ir.VectorType(_I8, 8)))


@_operation(types.void, types.int64)
def prefetch(builder, args):
    """Ask the processor to read the memory at an address; any address is allowed."""
    address = _pointer(builder, args[0], _I8)
    _call(builder, "llvm.prefetch.p0", ir.VoidType(), address, _I32(0), _I32(3), _I32(1))


# Arithmetic


@_operation(F32X8)
def zeros(builder, args):
    """Return 8 zeros."""
    return _all(F32X8.ir, 0.0)


@_operation(F32X2)
def zero_pair(builder, args):
    """Return 2 zeros."""
    return _all(F32X2.ir, 0.0)


@_operation(F32X8, types.float32)
def broadcast(builder, args):
    """Return 8 copies of a number."""
    return _splat(builder, args[0], 8)


@_operation(F32X2, types.float32)
def broadcast_pair(builder, args):
    """Return 2 copies of a number."""
    return _splat(builder, args[0], 2)


@_operation(F32X8, F32X2)
def spread(builder, args):
    """Return 4 copies of the first and 4 of the second number."""
    return _shuffle(builder, args[0], args[0], [0] * 4 + [1] * 4)


@_operation(F32X8, types.int64)
def spread_at(builder, args):
    """Return 4 copies of the first and 4 of the second float32 at an address."""
    both = _load(builder, args[0], ir.IntType(64))
    copies = builder.bitcast(_splat(builder, both, 4), F32X8.ir)
    return _shuffle(builder, copies, copies, [0] * 4 + [5] * 4)


@_operation(types.void, types.int64, F32X2)
def store_pair(builder, args):
    """Write 2 float32 to an address."""
    _store(builder, args[0], args[1])


@_operation(F32X8, F32X8, F32X8, F32X8)
def fma(builder, args):
    """Return a * b + c."""
    return _call(builder, "llvm.fma.v8f32", F32X8.ir, *args)


@_operation(F32X2, F32X2, F32X2, F32X2)
def fma_pair(builder, args):
    """Return a * b + c."""
    return _call(builder, "llvm.fma.v2f32", F32X2.ir, *args)


@_operation(types.float32, F32X8)
def total(builder, args):
    """Return the sum of the 8 numbers."""
    zero = ir.Constant(_FLOAT, 0.0)
    return _call(builder, "llvm.vector.reduce.fadd.v8f32", _FLOAT, zero, args[0], fastmath=_FAST)


@_operation(types.float32, F32X8)
def first(builder, args):
    """Return the first of the 8 numbers."""
    return builder.extract_element(args[0], _I32(0))


@_operation(types.float32, F32X2)
def total_pair(builder, args):
    """Return the sum of the 2 numbers."""
    first, second = (builder.extract_element(args[0], _I32(lane)) for lane in (0, 1))
    return builder.fadd(first, second)


def _add_neighbours(builder: ir.IRBuilder, one: Any, other: Any) -> Any:
    """Add neighbours within each half of two vectors of 8 (AVX's vhaddps)."""
    even = _shuffle(builder, one, other, [0, 2, 8, 10, 4, 6, 12, 14])
    odd = _shuffle(builder, one, other, [1, 3, 9, 11, 5, 7, 13, 15])
    return builder.fadd(even, odd, flags=_FAST)


@_operation(types.void, types.int64, F32X8, F32X8, F32X8, F32X8)
def store_totals(builder, args):
    """Write the sums of four vectors, 4 float32, to an address."""
    address, *vectors = args
    pairs = [_add_neighbours(builder, *vectors[i : i + 2]) for i in (0, 2)]
    halves = _add_neighbours(builder, *pairs)
    low, high = (_shuffle(builder, halves, halves, range(i, i + 4)) for i in (0, 4))
    _store(builder, address, builder.fadd(low, high, flags=_FAST))


@_operation(types.float32, F32X8)
def greatest(builder, args):
    """Return the greatest of the 8 numbers."""
    return _call(builder, "llvm.vector.reduce.fmax.v8f32", _FLOAT, args[0])


@_operation(F32X8, F32X8, F32X8)
def maximum(builder, args):
    """Return the greater of each two numbers."""
    return _call(builder, "llvm.maxnum.v8f32", F32X8.ir, *args)


@_operation(F32X8, F32X8, F32X8)
def minimum(builder, args):
    """Return the lesser of each two numbers."""
    return _call(builder, "llvm.minnum.v8f32", F32X8.ir, *args)


@_operation(F32X8, F32X8)
def absolute(builder, args):
    """Return the magnitudes of the numbers."""
    return _call(builder, "llvm.fabs.v8f32", F32X8.ir, args[0])


@_operation(F32X8, F32X8)
def rounded(builder, args):
    """Return the nearest whole numbers (ties to even)."""
    return _call(builder, "llvm.nearbyint.v8f32", F32X8.ir, args[0])


@_operation(F32X8, F32X8, F32X8)
def divided(builder, args):
    """Return a / b."""
    return builder.fdiv(*args)


@_operation(F32X8, I32X8)
def to_float(builder, args):
    """Return the integers as float32."""
    return builder.sitofp(args[0], F32X8.ir)


@_operation(F32X8, F32X8)
def power_of_2(builder, args):
    """Return 2 ** n for whole numbers n from -127 to 127, by writing the exponent's bits."""
    whole = builder.fptosi(args[0], I32X8.ir)
    bits = builder.shl(builder.add(whole, _all(I32X8.ir, 127)), _all(I32X8.ir, 23))
    return builder.bitcast(bits, F32X8.ir)


_EMIT = {
    operator.add: ("add", "fadd"),
    operator.sub: ("sub", "fsub"),
    operator.mul: ("mul", "fmul"),
    operator.and_: ("and_", None),
    operator.or_: ("or_", None),
}


def _define_operator(symbol: Callable[[Any, Any], Any], vector: Vector) -> None:
    """Let two vectors of a type be combined with a Python operator."""
    name = _EMIT[symbol][vector.is_float]
    if name is None:
        return

    @_operation(vector, vector, vector)
    def combine(builder, args):
        options = {"flags": _FAST} if vector.is_float else {}
        return getattr(builder, name)(*args, **options)

    @overload(symbol)
    def typed(one, other):  # numba asks every overload for every pair of types
        if one == vector and other == vector:
            return lambda one, other: combine(one, other)
        return None


for _vector in (F32X8, F32X2, I32X8, I8X32):
    for _symbol in _EMIT:
        _define_operator(_symbol, _vector)


# Bytes


def _bits(name: str, shift: int, mask: int) -> Any:
    def emit(builder: ir.IRBuilder, args: Sequence[Any]) -> Any:
        value = args[0]
        if shift > 0:
            value = builder.lshr(value, _all(I8X32.ir, shift))
        elif shift < 0:
            value = builder.shl(value, _all(I8X32.ir, -shift))
        return builder.and_(value, _all(I8X32.ir, mask))

    emit.__name__ = name
    emit.__doc__ = f"Shift bytes right by {shift} (left if negative), and keep bits {mask:#x}."
    return _operation(I8X32, I8X32)(emit)


@cache
def bits(shift: int, mask: int) -> Any:
    """Return the function that shifts 32 bytes right by ``shift`` bits and keeps ``mask``.

    A negative shift is to the left.
    """
    return _bits(f"bits_{'left' if shift < 0 else 'right'}_{abs(shift)}_{mask}", shift, mask)


low_nibbles, high_nibbles = bits(0, 15), bits(4, 15)


@_operation(I8X32, I8X16, I8X16)
def join(builder, args):
    """Return 16 bytes followed by 16 others."""
    return _shuffle(builder, args[0], args[1], range(32))


@_operation(I8X32, I8X32, I8X32)
def halves_of(builder, args):
    """Return the first 16 bytes of one vector and the last 16 of another."""
    return _shuffle(builder, args[0], args[1], [*range(16), *range(48, 64)])


@_operation(I8X32, types.int64)
def bits_to_bytes(builder, args):
    """Return a byte for each of the low 32 bits, lowest first: 16 if it is set, else 0."""
    flags = builder.bitcast(builder.trunc(args[0], _I32), ir.VectorType(_I1, 32))
    return builder.select(flags, _all(I8X32.ir, 16), _all(I8X32.ir, 0))


def _quarter(index: int) -> Any:
    def emit(builder: ir.IRBuilder, args: Sequence[Any]) -> Any:
        part = _shuffle(builder, args[0], args[0], range(8 * index, 8 * index + 8))
        return builder.sitofp(part, F32X8.ir)

    emit.__name__ = f"quarter_{index}"
    emit.__doc__ = f"Return the 8 signed bytes from {8 * index} on, as float32."
    return _operation(F32X8, I8X32)(emit)


quarter_0, quarter_1, quarter_2, quarter_3 = (_quarter(index) for index in range(4))


def _lane(index: int) -> Any:
    def emit(builder: ir.IRBuilder, args: Sequence[Any]) -> Any:
        return _shuffle(builder, args[0], args[0], [index] * 8)

    emit.__name__ = f"lane_{index}"
    emit.__doc__ = f"Return 8 copies of number {index}."
    return _operation(F32X8, F32X8)(emit)


lane_0, lane_1, lane_2, lane_3, lane_4, lane_5, lane_6, lane_7 = (_lane(i) for i in range(8))


def _lanes(index: int) -> Any:
    def emit(builder: ir.IRBuilder, args: Sequence[Any]) -> Any:
        return _shuffle(builder, args[0], args[0], [index] * 4 + [index + 1] * 4)

    emit.__name__ = f"lanes_{index}"
    emit.__doc__ = f"Return 4 copies each of the numbers {index} and {index + 1}."
    return _operation(F32X8, F32X8)(emit)


lanes_0, lanes_2, lanes_4, lanes_6 = (_lanes(index) for index in (0, 2, 4, 6))


@_operation(F32X8, F32X8)
def twice_low(builder, args):
    """Return each of the first four numbers twice."""
    return _shuffle(builder, args[0], args[0], [0, 0, 1, 1, 2, 2, 3, 3])


@_operation(F32X8, F32X8)
def twice_high(builder, args):
    """Return each of the last four numbers twice."""
    return _shuffle(builder, args[0], args[0], [4, 4, 5, 5, 6, 6, 7, 7])


@cache
def processor_has(*features: str) -> bool:
    """Return whether LLVM compiles for all of these features, such as "avx2" or "dotprod"."""
    host = llvmlite.binding.get_host_cpu_features()
    return all(host.get(feature, False) for feature in features)


def _wide_products(builder: ir.IRBuilder, one: Any, other: Any, unsigned: bool) -> Any:
    """Multiply bytes and add each four neighbours, on any processor: i32x8."""
    widen = builder.zext if unsigned else builder.sext
    wide = ir.VectorType(_I32, 32)
    products = builder.mul(widen(one, wide), builder.sext(other, wide))
    parts = [_shuffle(builder, products, products, range(k, 32, 4)) for k in range(4)]
    return builder.add(builder.add(*parts[:2]), builder.add(*parts[2:]))


def _add_pairs(builder: ir.IRBuilder, sums: Any) -> Any:
    """Add neighbours of 16 int16: i32x8 (AVX2's vpmaddwd with ones)."""
    ones = _all(ir.VectorType(_I16, 16), 1)
    return _call(builder, "llvm.x86.avx2.pmadd.wd", I32X8.ir, sums, ones)


def _byte_products(builder: ir.IRBuilder, unsigned: Any, signed: Any) -> Any:
    """Multiply bytes and add neighbours, saturated: 16 int16 (AVX2's vpmaddubsw)."""
    return _call(builder, "llvm.x86.avx2.pmadd.ub.sw", ir.VectorType(_I16, 16), unsigned, signed)


def _arm_dot(builder: ir.IRBuilder, one: Any, other: Any) -> Any:
    """Multiply signed bytes and add each four neighbours: i32x8 (two of Arm's sdot)."""
    half = ir.VectorType(_I32, 4)
    sums = []
    for first in (0, 16):
        parts = [_shuffle(builder, each, each, range(first, first + 16)) for each in (one, other)]
        zero = _all(half, 0)
        sums.append(_call(builder, "llvm.aarch64.neon.sdot.v4i32.v16i8", half, zero, *parts))
    return _shuffle(builder, sums[0], sums[1], range(8))


def _vnni_dot(builder: ir.IRBuilder, total: Any, unsigned: Any, signed: Any) -> Any:
    """Add the products of each four neighbours to i32x8 (AVX-512's or AVX's vpdpbusd)."""
    return _call(builder, "llvm.x86.avx512.vpdpbusd.256", I32X8.ir, total, unsigned, signed)


def _has_vnni() -> bool:
    return processor_has("avx512vnni", "avx512vl") or processor_has("avxvnni")


@_operation(I32X8, I8X32, I8X32)
def dot(builder, args):
    """Multiply bytes from 0 to 63 by signed ones, and add each four neighbours."""
    if _has_vnni():
        return _vnni_dot(builder, _all(I32X8.ir, 0), *args)
    if processor_has("avx2"):
        return _add_pairs(builder, _byte_products(builder, *args))
    if processor_has("dotprod"):
        return _arm_dot(builder, *args)
    return _wide_products(builder, *args, unsigned=True)


def _dot_twice_avx2(
    builder: ir.IRBuilder, first: Sequence[Any], second: Sequence[Any], factor: int
) -> Any:
    """Return ``factor`` times the products of two pairs of vectors; bytes from 0 to 31."""
    sums = builder.add(_byte_products(builder, *first), _byte_products(builder, *second))
    factors = _all(ir.VectorType(_I16, 16), factor)  # 4 * 31 * 127 fits 16 bits
    return _call(builder, "llvm.x86.avx2.pmadd.wd", I32X8.ir, sums, factors)


@_operation(I32X8, *[I8X32] * 6)
def dot_twice(builder, args):
    """Multiply two vectors of bytes from 0 to 31 by numbers of 16 bits; add each four neighbours.

    The arguments are the first vector and the upper and lower bytes of its factors, then the second
    with its own. The result is the sum of both.
    """
    one, one_upper, one_lower, two, two_upper, two_lower = args
    if _has_vnni():
        upper = _vnni_dot(builder, _all(I32X8.ir, 0), one, one_upper)
        upper = _vnni_dot(builder, upper, two, two_upper)
        lower = builder.mul(upper, _all(I32X8.ir, UPPER_BYTE))
        return _vnni_dot(builder, _vnni_dot(builder, lower, one, one_lower), two, two_lower)
    if processor_has("avx2"):
        upper = _dot_twice_avx2(builder, (one, one_upper), (two, two_upper), UPPER_BYTE)
        lower = _dot_twice_avx2(builder, (one, one_lower), (two, two_lower), 1)
        return builder.add(upper, lower)
    return _both_bytes(builder, args, unsigned=True)


def _both_bytes(builder: ir.IRBuilder, args: Sequence[Any], unsigned: bool) -> Any:
    """Compute ``dot_twice`` or ``signed_dot_twice`` on processors without AVX2."""
    one, one_upper, one_lower, two, two_upper, two_lower = args

    def twice(one_factors: Any, two_factors: Any) -> Any:
        pairs = (one, one_factors), (two, two_factors)
        if processor_has("dotprod"):
            return builder.add(*(_arm_dot(builder, *pair) for pair in pairs))
        return builder.add(*(_wide_products(builder, *pair, unsigned=unsigned) for pair in pairs))

    upper = builder.mul(twice(one_upper, two_upper), _all(I32X8.ir, UPPER_BYTE))
    return builder.add(upper, twice(one_lower, two_lower))


def _signed_dot(builder: ir.IRBuilder, one: Any, other: Any) -> Any:
    if processor_has("avx2"):  # also with VNNI: the first factor must be unsigned
        size = _call(builder, "llvm.abs.v32i8", I8X32.ir, one, _I1(0))
        is_negative = builder.icmp_signed("<", one, _all(I8X32.ir, 0))
        turned = builder.select(is_negative, builder.neg(other), other)
        if _has_vnni():
            return _vnni_dot(builder, _all(I32X8.ir, 0), size, turned)
        return _add_pairs(builder, _byte_products(builder, size, turned))
    if processor_has("dotprod"):
        return _arm_dot(builder, one, other)
    return _wide_products(builder, one, other, unsigned=False)


@_operation(I32X8, I8X32, I8X32)
def signed_dot(builder, args):
    """Multiply signed bytes by others from -127 to 127, and add each four neighbours."""
    return _signed_dot(builder, *args)


@_operation(I32X8, *[I8X32] * 6)
def signed_dot_twice(builder, args):
    """Do the same as ``dot_twice`` for signed bytes; none of the factors is -128."""
    if not processor_has("avx2"):
        return _both_bytes(builder, args, unsigned=False)
    one, one_upper, one_lower, two, two_upper, two_lower = args
    upper = builder.add(_signed_dot(builder, one, one_upper), _signed_dot(builder, two, two_upper))
    lower = builder.add(_signed_dot(builder, one, one_lower), _signed_dot(builder, two, two_lower))
    return builder.add(builder.mul(upper, _all(I32X8.ir, UPPER_BYTE)), lower)


# The 16 values of IQ4_NL and IQ4_XS (ggml-common.h, kvalues_iq4nl).
_IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


@_operation(I8X32, I8X32)
def iq4_values(builder, args):
    """Replace bytes from 0 to 15 by the values of IQ4_NL."""
    table = ir.Constant(ir.VectorType(_I8, 32), [value & 255 for value in 2 * _IQ4_VALUES])
    if processor_has("avx2"):
        return _call(builder, "llvm.x86.avx2.pshuf.b", I8X32.ir, table, args[0])
    result = _all(I8X32.ir, 0)
    for index, value in enumerate(_IQ4_VALUES):
        is_this = builder.icmp_unsigned("==", args[0], _all(I8X32.ir, index))
        result = builder.select(is_this, _all(I8X32.ir, value & 255), result)
    return result


# Threads


@_operation(types.int64, types.int64, types.int64)
def fetch_add(builder, args):
    """Add to the int64 at an address in one step for all threads; return the value before."""
    return builder.atomic_rmw("add", _pointer(builder, args[0], _I64), args[1], "seq_cst")


@_operation(types.int64, types.int64)
def read_shared(builder, args):
    """Return the int64 at an address that another thread may be changing."""
    return builder.load_atomic(_pointer(builder, args[0], _I64), "seq_cst", align=8)


@_operation(types.void, types.int64, types.int64)
def write_shared(builder, args):
    """Write the int64 at an address that another thread may be reading."""
    builder.store_atomic(args[1], _pointer(builder, args[0], _I64), "seq_cst", align=8)


@_operation(types.void)
def pause(builder, args):
    """Tell the processor that this thread waits in a loop, where it has such an instruction."""
    if processor_has("sse2"):
        _call(builder, "llvm.x86.sse2.pause", ir.VoidType())
    elif processor_has("neon"):
        _call(builder, "llvm.aarch64.hint", ir.VoidType(), _I32(1))


@_operation(types.void)
def yield_core(builder, args):
    """Let another thread run on this core (``system.threads`` defines the symbol)."""
    _call(builder, "llama_cpu_yield", ir.VoidType())


@_operation(types.void, types.int64)
def sleep(builder, args):
    """Sleep for some microseconds (``system.threads`` defines the symbol)."""
    _call(builder, "llama_cpu_sleep", ir.VoidType(), builder.trunc(args[0], _I32))


def _caller(name: str, count: int) -> Any:
    def emit(builder: ir.IRBuilder, args: Sequence[Any]) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [_I64] * count)
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])

    emit.__name__ = name
    emit.__doc__ = "Call the compiled function at the address of the first argument."
    return _operation(types.void, *[types.int64] * (1 + count))(emit)


call_product = _caller("call_product", 9)
call_attention = _caller("call_attention", 14)
call_forward = _caller("call_forward", 2)
