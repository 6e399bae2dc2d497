"""A configuration as rules of Qwix (google/qwix), one per module, for PTQ or QAT of a Flax model.

    qwix.QuantizationRule(module_path="stem/conv", weight_qtype="int4", act_qtype="int8")

An operation's module is the one that owns its kernel; `act_qtype` is of the quantizer that feeds the
operation, for Qwix quantizes the operands of a convolution or product, not its output. Qwix (0.1.8) knows
int2 to int8, chooses its own ranges (absmax, symmetric), and leaves sums and pooled tensors alone: figures of
the search hold for our quantizers, so measure again. Of convolutions its PtqProvider takes those with equal
bits for weight and activation, QtProvider those with both in 2-4 bits or both in 5-8; products may mix.
"""

import os
import re
from dataclasses import dataclass
from typing import Any

from hwmodel import check_fields

from ..chosen import chosen_bits
from ..front_io import Document, write_json
from ..quantized import QuantizedNetwork
from ..quantizers import FULL_BITS
from .provenance import provenance

SCHEMA = "frugaljax.nemo.qwix_rules/1"
WIDTHS = (2, 3, 4, 5, 6, 7, 8)  # that Qwix has integer types for
_MODULE_LEAVES = ("kernel", "weight", "w", "embedding")


@dataclass(frozen=True)
class QwixRule:
    """The fields of a `qwix.QuantizationRule`; Qwix matches `module_path` against the whole path."""

    module_path: str  # a regular expression that one module's path matches
    weight_qtype: str  # "int2" to "int8"
    act_qtype: str | None  # None: activations as they are

    def __post_init__(self):
        check_fields(self)
        try:
            re.compile(self.module_path)
        except re.error as error:
            raise ValueError(f"module_path {self.module_path!r} is no regular expression ({error})") from None
        known = [f"int{b}" for b in WIDTHS]
        for field, value in (("weight_qtype", self.weight_qtype), ("act_qtype", self.act_qtype)):
            if value not in known and not (field == "act_qtype" and value is None):
                raise ValueError(f"{field} must be one of {', '.join(known)}, got {value!r}")


def qwix_rules(network: QuantizedNetwork, bits: Any) -> tuple[QwixRule, ...]:
    """One rule per module with a quantized weight, in execution order; other modules match none.

    A module that is called several times gets the widest of its activations' types.

    Args:
        bits: a `Configuration`, a mapping of point to bit-width, or (n,) bit-widths.

    Raises:
        ValueError: a bit-width of 9 to 16, which Qwix has no type for, with its quantizer.
    """
    chosen = chosen_bits(network, bits)
    work = network.workload
    found: dict[str, tuple[int, int]] = {}
    for op in work.operations:
        if op.weight_point < 0 or op.kind == "gather" or chosen[op.weight_point] == FULL_BITS:
            continue
        weight = int(chosen[op.weight_point])
        activation = int(chosen[op.input_point]) if op.input_point >= 0 else FULL_BITS
        for point, width in ((op.weight_point, weight), (op.input_point, activation)):
            if width not in WIDTHS and width != FULL_BITS:
                raise ValueError(
                    f"{work.points[point].name!r} has {width} bits, and Qwix has types of 2-8: "
                    "give it 8 or 32"
                )
        path = _module(network, op.equations[0])
        found[path] = (weight, max(activation, found.get(path, (0, 0))[1]))
    return tuple(
        QwixRule(re.escape(path), f"int{w}", None if a == FULL_BITS else f"int{a}")
        for path, (w, a) in found.items()
    )


def save_qwix_rules(
    path: str | os.PathLike[str], network: QuantizedNetwork, bits: Any
) -> tuple[QwixRule, ...]:
    """Writes `qwix_rules` as JSON (schemas/qwix_rules.schema.json)."""
    rules = qwix_rules(network, bits)
    rows = [
        {"module_path": r.module_path, "weight_qtype": r.weight_qtype, "act_qtype": r.act_qtype}
        for r in rules
    ]
    write_json(path, SCHEMA, {**provenance(network), "rules": rows})
    return rules


def read_qwix_rules(path: str | os.PathLike[str]) -> tuple[QwixRule, ...]:
    """The rules of a file, without Qwix.

    Raises:
        ValueError: the file is missing, damaged, or holds what is no rule.
    """
    document = Document.read(
        path, SCHEMA, ("network", "weights_source", "frugaljax", "rules"), "save_qwix_rules"
    )
    rows, rules = document.fields["rules"], []
    if not isinstance(rows, list):
        document.fail("rules is no list")
    for i, row in enumerate(rows):
        if not isinstance(row, dict) or set(row) != {"module_path", "weight_qtype", "act_qtype"}:
            document.fail(f"rules[{i}] has other fields than a rule has")
        for field, value in row.items():
            if not isinstance(value, str) and not (field == "act_qtype" and value is None):
                document.fail(f"rules[{i}].{field} is no string")
        try:
            rules.append(QwixRule(**row))
        except ValueError as error:
            document.fail(f"rules[{i}]: {error}")
    return tuple(rules)


def load_qwix_rules(path: str | os.PathLike[str]) -> list[Any]:
    """The rules of a file as `qwix.QuantizationRule`s.

    Raises:
        ImportError: Qwix is not installed.
        ValueError: as `read_qwix_rules`.
    """
    rules = read_qwix_rules(path)
    try:
        import qwix
    except ImportError as error:
        raise ImportError("load_qwix_rules needs the package qwix: pip install qwix") from error
    return [
        qwix.QuantizationRule(
            module_path=rule.module_path, weight_qtype=rule.weight_qtype, act_qtype=rule.act_qtype
        )
        for rule in rules
    ]


def _module(network: QuantizedNetwork, equation: int) -> str:
    """The path of the module that owns the largest parameter behind an equation's weight."""
    program = network.workload.program
    behind = program.params_behind(program.equations[equation].inputs[1])
    if not behind:
        return "constant"
    leaf = max(behind, key=lambda i: program.values[program.params[i]].elems)
    head, _, last = program.param_names[leaf].rpartition("/")
    return head if head and last in _MODULE_LEAVES else program.param_names[leaf]
