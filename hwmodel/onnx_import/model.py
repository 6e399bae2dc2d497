"""An ONNX file as a flat list of nodes with known shapes."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

Shape = tuple[int, ...]


class Node(NamedTuple):
    """One operator; "" stands for an input or output that is left out."""

    name: str
    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    @property
    def where(self) -> str:
        return f"node {self.name!r} ({self.op})"

    def reads(self, i: int) -> str:
        """Input i, or "" where it is left out."""
        return self.inputs[i] if i < len(self.inputs) else ""

    def whole(self, name: str, default: int) -> int:
        """An attribute that is a whole number."""
        value = self.attributes.get(name, default)
        if not isinstance(value, int):
            raise ValueError(f"{self.where}: {name} must be a whole number, got {value!r}")
        return value

    def wholes(self, name: str) -> tuple[int, ...] | None:
        """An attribute that is a list of whole numbers, if it is there."""
        value = self.attributes.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(v, int) for v in value):
            raise ValueError(f"{self.where}: {name} must be whole numbers, got {value!r}")
        return tuple(value)

    def text(self, name: str, default: str) -> str:
        """An attribute that is text."""
        value = self.attributes.get(name, default.encode())
        if not isinstance(value, bytes) or not value.isascii():
            raise ValueError(f"{self.where}: {name} must be text, got {value!r}")
        return value.decode()


class Model(NamedTuple):
    """What the outputs need, in execution order. Values go by their names in the file."""

    name: str
    nodes: tuple[Node, ...]
    shapes: Mapping[str, Shape]
    inputs: tuple[str, ...]  # activations
    outputs: tuple[str, ...]
    constants: frozenset[str]  # values that depend on no activation
    small: Mapping[str, np.ndarray]  # small constants that the file states
    consumers: Mapping[str, tuple[int, ...]]  # value -> nodes that read it, one twice if it reads it twice
    producer: Mapping[str, int]

    def active(self, node: Node) -> list[str]:
        """The activations that a node reads, in order."""
        return [v for v in node.inputs if v and v not in self.constants]

    def fixed(self, node: Node) -> list[str]:
        """The constants that a node reads, in order."""
        return [v for v in node.inputs if v in self.constants]

    def uses(self, value: str) -> int:
        """How often a value is read, by nodes and as an output."""
        return len(self.consumers.get(value, ())) + self.outputs.count(value)

    def shape(self, value: str, node: Node) -> Shape:
        """The shape of a value; ValueError where only a run of the network would tell."""
        if value not in self.shapes:
            raise ValueError(f"{node.where}: the shape of {value!r} is not known before the network runs")
        return self.shapes[value]

    def elems(self, value: str, node: Node) -> int:
        """Number of elements of a value."""
        return math.prod(self.shape(value, node))
