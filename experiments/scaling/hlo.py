"""Reads a program that XLA has optimised for a TPU, as text, and says what each of its operations costs.

XLA's compiler for TPUs writes `"estimated_cycles":"N"` beside most operations of the program that it has scheduled. An operation without
an estimate (a gather, an asynchronous copy, an all-reduce) has its bytes instead. What a loop repeats counts as often as it runs.
`program.py` makes the text, `estimate.py` adds the costs up:

    for cost in costs(compiled.as_text()):
        cost.name, cost.cycles, cost.bytes
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "while"}  # a while: its body costs
COLLECTIVES = {"all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute"}
PRODUCTS = {"convolution", "dot"}
_ON_CHIP = "S(1)"  # in a layout: the array lies in the chip's own vector memory
_START, _DONE = "async-collective-start", "async-collective-done"  # names of fusions; between the two, others compute
_UNKNOWN = 2**63 - 1  # cycles of an operation that has no estimate after all
_CALLS = r"calls=%?([\w.\-]+)"
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*)")
_ARRAY = re.compile(r"([a-z]+\d*)\[([\d,]*)\](?:\{([\d,]*)(?::([^}]*))?\})?")


class Operation(NamedTuple):
    """A line of the program."""

    result: str  # its type: `bf16[128,55,55,96]{0,3,2,1:T(8,128)(2,1)}`
    kind: str  # `fusion`, `convolution`, `all-reduce`, ...
    inside: str  # what is in its parentheses: the operands
    rest: str  # its attributes

    @property
    def operands(self) -> list[str]:
        return re.findall(r"%([\w.\-]+)", self.inside)

    def attribute(self, pattern: str) -> str:
        """What the group of a pattern finds in the attributes; empty where it finds nothing."""
        found = re.search(pattern, self.rest)
        return found[1] if found else ""


Computation = dict[str, Operation]


class Cost(NamedTuple):
    """What one operation costs, with all its repetitions."""

    kind: str
    name: str  # where it comes from, as the program's source named the place: `jit(step)/jvp(augment)`
    cycles: float  # as the compiler estimates them; 0 where it doesn't
    bytes: float  # of its results and operands, with the padding of their layouts, where there is no estimate


def costs(text: str) -> Iterator[Cost]:
    """The costs of a program's operations, in the order of the program.

    Raises:
      ValueError: the text isn't a program as XLA prints it, or has a loop whose number of turns can't be read.
    """
    computations, entry = parse(text)
    return _costs(computations, entry, 1)


def parse(text: str) -> tuple[dict[str, Computation], str]:
    """The computations of a program by name, and the name of its entry.

    Raises:
      ValueError: there is no entry.
    """
    computations: dict[str, Computation] = {}
    entry = ""
    for line in text.splitlines():
        if found := _COMPUTATION.match(line):
            current = computations[found[2]] = {}
            entry = found[2] if found[1] else entry
        elif computations and (found := _INSTRUCTION.match(line)):
            current[found[1]] = _operation(found[2])
    if not entry:
        raise ValueError("the program has no ENTRY")
    return computations, entry


def _operation(text: str) -> Operation:
    end = _closing(text, 0) if text.startswith("(") else text.index(" ") - 1
    opening = text.index("(", end + 1)
    closing = _closing(text, opening)
    return Operation(text[: end + 1], text[end + 1 : opening].strip(), text[opening + 1 : closing], text[closing + 1 :])


def _closing(text: str, opening: int) -> int:
    """The place of the parenthesis that closes the one at `opening`."""
    depth = 0
    for place in range(opening, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if not depth:
            return place
    raise ValueError(f"a parenthesis is not closed: {text[:80]}")


def _costs(computations: dict[str, Computation], which: str, times: int) -> Iterator[Cost]:
    operations = computations[which]
    for own, operation in operations.items():
        if operation.kind == "while":
            turns = times * _turns(computations[operation.attribute(r"condition=%?([\w.\-]+)")])
            around = _name(computations, operations, own)
            for cost in _costs(computations, operation.attribute(r"body=%?([\w.\-]+)"), turns):
                yield cost if cost.name else cost._replace(name=around)
        if operation.kind in FREE or operation.kind.endswith("-done") or own.startswith(_DONE) or "AllocateBuffer" in operation.rest:
            continue
        name, inside = _name(computations, operations, own), computations.get(operation.attribute(_CALLS), {})
        if own.startswith(_START):  # a fusion that starts the collective inside it
            operations_of, operation = inside, next(other for other in inside.values() if other.kind in COLLECTIVES)
        else:
            operations_of = operations
        cycles = int(operation.attribute(r'"estimated_cycles":"(\d+)"') or 0) % _UNKNOWN
        moved = 0 if cycles else _moved(operations_of, operation)
        yield Cost(operation.kind.removesuffix("-start"), name, times * cycles, times * moved)


def _turns(condition: Computation) -> int:
    """How often a loop runs that counts from 0 up to a constant."""
    limits = [int(operation.inside) for operation in condition.values() if operation.kind == "constant"]
    if len(limits) != 1 or not any("direction=LT" in operation.rest for operation in condition.values()):
        raise ValueError(f"a loop's number of turns can't be read from its condition: {condition}")
    return limits[0]


def _name(computations: dict[str, Computation], operations: Computation, own: str) -> str:
    """The name of an operation: of a fusion, that of the product in it, or of most of what it holds; without a name, that of what it takes.

    A fusion is itself named after its last operation, often only a conversion or a change of shape.
    """
    seen, waiting = {own}, [own]
    while waiting:
        operation = operations[waiting.pop(0)]
        inner = computations.get(operation.attribute(_CALLS), {}).values()
        products = [other for other in inner if other.kind in PRODUCTS]
        for named in (products, inner, [operation]):
            places = Counter(name.rpartition("/")[0] or name for other in named if (name := other.attribute(r'op_name="([^"]*)"')))
            if places:
                return places.most_common(1)[0][0]
        others = [other for other in operation.operands if other in operations and other not in seen]
        seen.update(others)
        waiting += others
    return ""


def _moved(operations: Computation, operation: Operation) -> float:
    """Bytes of an operation's result and operands; of a collective, what it sends; of an update in place, what is updated."""
    given = [operations[name].result for name in operation.operands if name in operations]
    kind = operation.kind.removesuffix("-start")
    if kind in COLLECTIVES:
        return sum(map(size, given))
    if kind == "dynamic-update-slice":
        return 2 * size(given[1])
    if operation.kind.endswith("-start"):  # a copy, in part between memory and the chip itself: ((operand, result, semaphore))
        operand, result, *_ = _ARRAY.finditer(operation.result)
        return _padded(*result.groups()) * sum(_ON_CHIP not in (array[4] or "") for array in (operand, result))
    return size(operation.result) + sum(map(size, given))


def size(types: str) -> float:
    """Bytes of an array, or of a tuple of arrays, as it lies in memory: padded to the tiles of its layout."""
    return sum(_padded(*array.groups()) for array in _ARRAY.finditer(types))


def _padded(dtype: str, shape: str, order: str | None, layout: str | None) -> float:
    dims = [int(number) for number in shape.split(",") if number]
    minor = [dims[int(axis)] for axis in (order or "").split(",") if axis] or dims[::-1]  # from the minor dimension to the major one
    tile = re.match(r"T\(([\d,]+)\)", layout or "")
    for place, number in enumerate(reversed(tile[1].split(",")) if tile else ()):
        if place < len(minor):
            minor[place] = -(-minor[place] // int(number)) * int(number)
    bits = 8 if dtype == "pred" else int(re.sub(r"\D", "", dtype) or 0)
    return math.prod(minor) * bits / 8
