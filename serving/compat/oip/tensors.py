"""Tensors of the protocol and back: in JSON, or as little-endian bytes behind the JSON."""

from __future__ import annotations

import itertools
import math
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.body import pointer_to
from serving.compat.columns import check_finite, numbers_of
from serving.compat.oip.schemas import InferRequest, InputTensor
from serving.limits import Limits
from serving.problems import Item, Problem, too_large
from serving.trees import tree_of, validated

HEADER = "Inference-Header-Content-Length"
LENGTH = re.compile(r"[0-9]{1,10}")
NUMBERS: dict[str, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "FP64": np.dtype("<f8")}
SIZE_BYTES = 4  # before each text of a BYTES tensor
Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sent:
    """A request with its tensors by name: numbers in their shape, texts in a list."""

    asked: InferRequest
    numbers: dict[str, Numbers]
    texts: dict[str, list[str]]

    def place(self, name: str, row: int | None = None) -> str:
        """The pointer to a tensor, or to an element of it where that is JSON."""
        for place, tensor in enumerate(self.asked.inputs):
            if tensor.name == name:
                inside = () if row is None or tensor.data is None else _flat_place(tensor, row)
                return pointer_to("inputs", place, *inside)
        return ""


def read(body: bytes, header: str | None, limits: Limits) -> Sent:
    """The request in `body`, whose JSON is as long as `header` says; all of it without."""
    size = len(body) if header is None else _length(header, len(body))
    asked = validated(InferRequest, tree_of(body[:size], limits, loose=True))
    names = [tensor.name for tensor in asked.inputs]
    if len(set(names)) < len(names):
        raise _invalid("An input is given twice.", "/inputs")
    sent, rest = Sent(asked, {}, {}), memoryview(body)[size:]
    for place, tensor in enumerate(asked.inputs):
        pointer = pointer_to("inputs", place)
        _check_type(tensor, pointer)
        count = math.prod(tensor.shape)
        if max(count, *tensor.shape) > limits.input_values:  # an axis of 0 hides the others
            raise too_large("input_values", maximum=limits.input_values)
        own = None
        if tensor.parameters is not None:
            own, rest = _cut(rest, tensor.parameters.binary_data_size, pointer)
        if tensor.datatype == "BYTES":
            texts = _texts(tensor, pointer) if own is None else _unpacked(own, count, pointer)
            sent.texts[tensor.name] = texts
        else:
            values = _values(tensor, pointer) if own is None else _buffer(own, tensor, pointer)
            sent.numbers[tensor.name] = values.reshape(tensor.shape)
    if len(rest):
        detail = f"{len(rest)} bytes follow the last tensor. Check the sizes and {HEADER}."
        raise Problem("malformed-body", detail)
    return sent


def _length(header: str, size: int) -> int:
    if not LENGTH.fullmatch(header):
        raise Problem("malformed-header", f"{HEADER} must be a whole number.")
    if int(header) > size:
        raise Problem("malformed-header", f"{HEADER} is more than the {size} bytes of the body.")
    return int(header)


def _check_type(tensor: InputTensor, pointer: str) -> None:
    """A tensor has numbers or texts by its name, and its data in one place."""
    is_text = tensor.name in ("unique_id", "start")
    if is_text != (tensor.datatype == "BYTES"):
        expected = "BYTES" if is_text else "FP32 or FP64"
        raise _invalid(f"This input is {expected}.", f"{pointer}/datatype")
    if (tensor.data is None) == (tensor.parameters is None):
        message = "Give data, or parameters.binary_data_size and the bytes after the JSON."
        raise _invalid(message, pointer)


# --- bytes ----------------------------------------------------------------------------------------


def _cut(rest: memoryview, size: int, pointer: str) -> tuple[memoryview, memoryview]:
    """The `size` bytes of a tensor, and those after them."""
    if size > len(rest):
        detail = f"An input has {size} bytes, and {len(rest)} are left. Check {HEADER}."
        raise Problem("malformed-body", detail, [Item(detail, pointer)])
    return rest[:size], rest[size:]


def _buffer(own: memoryview, tensor: InputTensor, pointer: str) -> Numbers:
    kind = NUMBERS[tensor.datatype]
    expected = math.prod(tensor.shape) * kind.itemsize
    if len(own) != expected:
        raise _invalid(f"{expected} bytes fill this shape, and {len(own)} came.", pointer)
    values = np.frombuffer(own, kind)
    check_finite(values, lambda _: pointer)
    with np.errstate(invalid="ignore"):  # of a NaN that wants to be noticed
        return values.astype(np.float64)


def _unpacked(own: memoryview, count: int, pointer: str) -> list[str]:
    """`count` texts in UTF-8, each after its length."""
    texts: list[str] = []
    at = 0
    while at < len(own) and len(texts) < count:
        if at + SIZE_BYTES > len(own):
            break
        (size,) = struct.unpack_from("<I", own, at)
        at += SIZE_BYTES + size
        if at > len(own):
            break
        try:
            texts.append(str(own[at - size : at], "utf-8"))
        except UnicodeDecodeError:
            raise _invalid("A text is not UTF-8.", pointer) from None
    if at != len(own) or len(texts) != count:
        raise _invalid(f"These bytes are not {count} texts, each after its length.", pointer)
    return texts


def packed(texts: Sequence[str]) -> bytes:
    """Texts as the bytes of a BYTES tensor."""
    coded = [text.encode() for text in texts]
    return b"".join(struct.pack("<I", len(text)) + text for text in coded)


# --- JSON -----------------------------------------------------------------------------------------


def _values(tensor: InputTensor, pointer: str) -> Numbers:
    flat = _flat(tensor, pointer)
    where = _pointer_in(tensor, pointer)
    values = numbers_of(flat, where)
    if tensor.datatype == "FP64":
        return values
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    check_finite(single, where)
    return single.astype(np.float64)


def _texts(tensor: InputTensor, pointer: str) -> list[str]:
    flat = _flat(tensor, pointer)
    where = _pointer_in(tensor, pointer)
    for row, text in enumerate(flat):
        if not isinstance(text, str):
            raise _invalid("A BYTES tensor holds texts.", where(row))
    return flat


def _flat(tensor: InputTensor, pointer: str) -> list[Any]:
    """The elements of `data`, which is flat or nested as the shape says."""
    data, shape = tensor.data, tensor.shape
    if not isinstance(data, list):
        raise _invalid("data must be an array.", f"{pointer}/data")
    if list in set(map(type, data)):
        for axis, length in enumerate(shape[1:]):
            rows = math.prod(shape[: axis + 1])
            if len(data) != rows or any(type(r) is not list or len(r) != length for r in data):
                raise _invalid("data is not nested as the shape says.", f"{pointer}/data")
            data = [*itertools.chain.from_iterable(data)]
    if len(data) != math.prod(shape):
        message = f"{math.prod(shape)} elements fill this shape, and {len(data)} came."
        raise _invalid(message, f"{pointer}/data")
    return data


def _pointer_in(tensor: InputTensor, pointer: str) -> Callable[[int], str]:
    return lambda row: pointer + pointer_to(*_flat_place(tensor, row))


def _flat_place(tensor: InputTensor, row: int) -> tuple[str | int, ...]:
    """Where the element `row` of a tensor in JSON stands."""
    if not tensor.data or not isinstance(tensor.data[0], list):
        return ("data", row)
    return ("data", *(int(place) for place in np.unravel_index(row, tensor.shape)))


def _invalid(message: str, pointer: str) -> Problem:
    return Problem("invalid-request", "A tensor is not as specified.", [Item(message, pointer)])
