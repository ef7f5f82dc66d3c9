"""The three types of an expression and the element types of captured tensors.

`index` values are integers (int32 in kernels, int64 where a range asks for it); `float` values are
float32 in kernels. Nothing here knows of ops or nodes.
"""

from __future__ import annotations

from enum import Enum


class Type(Enum):
    """The type of an expression."""

    __hash__ = object.__hash__  # members are single objects; Enum's own hash is slow

    BOOL = "bool"
    INDEX = "index"
    FLOAT = "float"


class DType(Enum):
    """The element type of a captured tensor, by the name that the text form uses."""

    __hash__ = object.__hash__  # as above: it is part of the key of a load

    BOOL = "bool"
    U8 = "u8"
    I8 = "i8"
    I16 = "i16"
    I32 = "i32"
    I64 = "i64"
    F16 = "f16"
    BF16 = "bf16"
    F32 = "f32"
    F64 = "f64"

    @property
    def type(self) -> Type:
        """The type of an element once it is loaded."""
        if self is DType.BOOL:
            return Type.BOOL
        return Type.FLOAT if self.value[0] in "fb" else Type.INDEX


# numpy's and torch's own names of the element types, without the module they stand in.
DTYPE_BY_LIBRARY_NAME = {
    "bool": DType.BOOL,
    "uint8": DType.U8,
    "int8": DType.I8,
    "int16": DType.I16,
    "int32": DType.I32,
    "int64": DType.I64,
    "float16": DType.F16,
    "bfloat16": DType.BF16,
    "float32": DType.F32,
    "float64": DType.F64,
}
