"""BERT-base (Devlin et al., 2019): 12 layers, hidden size 768, 12 heads, feed-forward size 3072."""

from typing import Literal, NamedTuple

from ..workload import Edge, Workload
from .builder import INPUT, Builder, Tensor, whole

Granularity = Literal["fused", "fine"]


class Config(NamedTuple):
    """Sizes of the network; the defaults are BERT-base, uncased."""

    layers: int = 12
    hidden: int = 768
    heads: int = 12
    feed_forward: int = 3072
    vocabulary: int = 30_522
    positions: int = 512
    segments: int = 2


BASE = Config()


def bert_base(
    *,
    sequence: int = 128,
    granularity: Granularity = "fused",
    batch: int = 1,
    labels: int = 2,
    config: Config = BASE,
) -> Workload:
    """The encoder with embeddings, pooler and a classifier of `labels` classes.

    Args:
        sequence: tokens of each sample.
        granularity: "fused" gives 11 operations a layer (queries, keys, values, scores, softmax, context,
            output with residual, norm, two feed-forward products with their epilogues, norm); "fine" gives
            31, with every bias, reshape, transposition, residual and activation on its own.
        batch: samples in one call.
        labels: outputs of the classifier.
        config: sizes of another member of the family.
    """
    whole("sequence", sequence)
    whole("labels", labels)
    for name, value in config._asdict().items():
        whole(name, value)
    if config.hidden % config.heads:
        raise ValueError(f"heads {config.heads} must divide hidden {config.hidden}")
    if sequence > config.positions:
        raise ValueError(f"sequence must be at most {config.positions}, got {sequence}")
    if granularity not in ("fused", "fine"):
        raise ValueError(f"granularity must be 'fused' or 'fine', got {granularity!r}")
    build, layer = Builder(batch), _fused_layer if granularity == "fused" else _fine_layer
    x = _embeddings(build, sequence, config)
    for i in range(config.layers):
        x = layer(build, f"layer{i}", x, config)
    first = Edge(x.operation, batch * config.hidden)  # of all tokens, the first is read
    pooled = build.add(
        "pooler",
        "dense",
        [Tensor(x.operation, (1, 1, config.hidden))],
        (1, 1, config.hidden),
        macs=batch * config.hidden**2,
        w_elems=config.hidden**2,
        bias_elems=config.hidden,
        parents=(first,),
    )
    build.dense("classifier", pooled, labels)
    return build.workload(f"bert_base_{granularity}_{sequence}")


def _embeddings(build: Builder, sequence: int, config: Config) -> Tensor:
    """Words, positions and segments looked up and summed, then normalised: a row of each table per token."""
    sizes = (sequence, 1, config.hidden)
    tokens = Tensor(INPUT, (sequence, 1, 1))
    rows = config.vocabulary + config.positions + config.segments
    x = build.add(
        "embeddings",
        "gather",
        [tokens, tokens],  # word and segment of each
        sizes,
        w_elems=rows * config.hidden,
        w_reads=3 * build.batch * sequence * config.hidden,
    )
    return build.pointwise("embeddings.norm", "norm", [x], bias_elems=2 * config.hidden)


def _fused_layer(build: Builder, name: str, x: Tensor, config: Config) -> Tensor:
    hidden = config.hidden
    q, k, v = (build.dense(f"{name}.{part}", x, hidden) for part in ("query", "key", "value"))
    scores = _scores(build, f"{name}.scores", q, k, config, mask=True)
    weights = build.pointwise(f"{name}.softmax", "softmax", [scores])
    context = _context(build, f"{name}.context", weights, v, config)
    context = Tensor(context.operation, x.sizes)  # heads side by side
    y = build.dense(f"{name}.output", context, hidden, residual=x)
    y = build.pointwise(f"{name}.norm1", "norm", [y], bias_elems=2 * hidden)
    z = build.dense(f"{name}.ffn1", y, config.feed_forward)
    z = build.dense(f"{name}.ffn2", z, hidden, residual=y)
    return build.pointwise(f"{name}.norm2", "norm", [z], bias_elems=2 * hidden)


def _fine_layer(build: Builder, name: str, x: Tensor, config: Config) -> Tensor:
    sequence, _, hidden = x.sizes
    per_head = (sequence, config.heads, hidden // config.heads)
    parts = []
    for part in ("query", "key", "value"):
        y = _dense_and_bias(build, f"{name}.{part}", x, hidden)
        y = build.add(f"{name}.{part}.reshape", "layout", [y], per_head)
        parts.append(build.add(f"{name}.{part}.transpose", "layout", [y], _heads_first(per_head)))
    q, k, v = parts
    heads, _, width = _heads_first(per_head)
    k = build.add(f"{name}.key.transpose2", "layout", [k], (heads, width, sequence))
    y = _scores(build, f"{name}.scores", q, k, config, mask=False)
    y = build.pointwise(f"{name}.scale", "norm", [y])
    y = build.pointwise(f"{name}.mask", "add", [y], ext_in=build.batch * sequence)
    y = build.pointwise(f"{name}.softmax", "softmax", [y])
    y = _context(build, f"{name}.context", y, v, config)
    y = build.add(f"{name}.context.transpose", "layout", [y], per_head)
    y = build.add(f"{name}.context.reshape", "layout", [y], x.sizes)
    y = _dense_and_bias(build, f"{name}.output", y, hidden)
    y = build.pointwise(f"{name}.residual1", "add", [y, x])
    y = build.pointwise(f"{name}.norm1", "norm", [y], bias_elems=2 * hidden)
    z = _dense_and_bias(build, f"{name}.ffn1", y, config.feed_forward)
    z = build.pointwise(f"{name}.gelu", "act", [z])
    z = _dense_and_bias(build, f"{name}.ffn2", z, hidden)
    z = build.pointwise(f"{name}.residual2", "add", [z, y])
    return build.pointwise(f"{name}.norm2", "norm", [z], bias_elems=2 * hidden)


def _dense_and_bias(build: Builder, name: str, x: Tensor, features: int) -> Tensor:
    y = build.dense(name, x, features, bias=False)
    return build.pointwise(f"{name}.bias", "norm", [y], bias_elems=features)


def _heads_first(sizes: tuple[int, int, int]) -> tuple[int, int, int]:
    sequence, heads, width = sizes
    return heads, sequence, width


def _scores(build: Builder, name: str, q: Tensor, k: Tensor, config: Config, mask: bool) -> Tensor:
    """Every query against every key, per head; with `mask`, scale and mask are part of it."""
    sequence = build.elems(q) // (build.batch * config.hidden)
    return build.add(
        name,
        "matmul",
        [q, k],
        (config.heads, sequence, sequence),
        macs=build.batch * config.hidden * sequence**2,
        ext_in=build.batch * sequence if mask else 0,
        ifm=(sequence, 1, config.hidden // config.heads),
        ofm=(sequence, 1, sequence),
        batch=build.batch * config.heads,
    )


def _context(build: Builder, name: str, weights: Tensor, v: Tensor, config: Config) -> Tensor:
    """The values of all tokens, weighted, per head."""
    heads, _, sequence = weights.sizes
    width = config.hidden // heads
    return build.add(
        name,
        "matmul",
        [weights, v],
        (heads, sequence, width),
        macs=build.batch * config.hidden * sequence**2,
        ifm=(sequence, 1, sequence),
        ofm=(sequence, 1, width),
        batch=build.batch * heads,
    )
