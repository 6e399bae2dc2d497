"""BERT (Devlin et al. 2019) and its kin, such as MiniLM (Wang et al. 2020): an encoder of token ids.

Layer norms come after the residual sums, GELU is the exact one, and the scores of hidden tokens are set to
-1e9 before the softmax.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from nemojax.networks.checks import above_zero, one_of, whole
from nemojax.networks.family import Family, Weights
from nemojax.networks.network import Network
from nemojax.preprocess import Preprocess
from nemojax.weights import HUGGING_FACE, Layout

OUTPUTS = ("sequence", "pooled", "classes", "mean", "unit_mean")


@dataclass(frozen=True)
class Config:
    """A member of the family; the defaults are BERT-base, uncased.

    output  "sequence"   every token, (N, L, hidden)
            "pooled"     the first token through a dense layer and tanh, (N, hidden)
            "classes"    that through another dense layer, (N, classes)
            "mean"       the mean of the tokens that the mask shows, (N, hidden)
            "unit_mean"  that divided by its length: sentence embeddings
    """

    layers: int = 12
    hidden: int = 768
    heads: int = 12
    feed_forward: int = 3072
    vocabulary: int = 30_522
    positions: int = 512  # tokens at most
    segments: int = 2
    output: str = "pooled"
    classes: int = 2  # with output="classes" only
    epsilon: float = 1e-12  # of layer norms

    def __post_init__(self):
        whole(self, "layers", "hidden", "heads", "feed_forward", "classes")
        whole(self, "vocabulary", "positions", "segments")
        above_zero(self, "epsilon")
        one_of(self, "output", OUTPUTS)
        if self.hidden % self.heads:
            raise ValueError(f"heads must divide hidden={self.hidden}, got {self.heads}")


class Layer(nn.Module):
    """Self-attention and two dense layers, each with a residual sum and a layer norm after it."""

    config: Config

    @nn.compact
    def __call__(self, x: Float[Array, "N L H"], seen: Array) -> Float[Array, "N L H"]:
        c = self.config
        width = c.hidden // c.heads
        scale = width**-0.5

        def heads(y: Array) -> Array:
            return y.reshape(*y.shape[:2], c.heads, width)

        # The scale is put on the queries, where it folds into their weights, not on the larger scores.
        query = heads(nn.Dense(c.hidden, name="query")(x) * scale)
        key, value = (heads(nn.Dense(c.hidden, name=name)(x)) for name in ("key", "value"))
        scores = jnp.einsum("nqhd,nkhd->nhqk", query, key)
        weights = nn.softmax(jnp.where(seen, scores, -1e9))
        context = jnp.einsum("nhqk,nkhd->nqhd", weights, value).reshape(x.shape)
        x = _norm(c, "attention_norm")(x + nn.Dense(c.hidden, name="output")(context))
        y = nn.gelu(nn.Dense(c.feed_forward, name="ffn1")(x), approximate=False)
        return _norm(c, "ffn_norm")(x + nn.Dense(c.hidden, name="ffn2")(y))


class Bert(nn.Module):
    """{"ids", "mask"[, "segments"]}, each (N, L) int32, to what `Config.output` says; segments default to 0.

    The mask is 1 at tokens and 0 at filling. An id beyond the vocabulary gives NaN. `train` changes nothing:
    there is no dropout.
    """

    config: Config = Config()

    @nn.compact
    def __call__(self, inputs: Mapping[str, Int[Array, "N L"]], train: bool = False) -> Float[Array, "N ..."]:
        if not {"ids", "mask"} <= set(inputs):
            raise ValueError(
                f"inputs must have 'ids' and 'mask', got {', '.join(map(repr, inputs)) or 'nothing'}"
            )
        c, ids, mask = self.config, inputs["ids"], inputs["mask"]
        length = ids.shape[1]
        if length > c.positions:
            raise ValueError(f"ids have {length} tokens a sample, of which the network takes {c.positions}")
        segments = inputs.get("segments", jnp.zeros((1, 1), jnp.int32))
        x = nn.Embed(c.vocabulary, c.hidden, name="words")(ids)
        x = x + nn.Embed(c.positions, c.hidden, name="positions")(jnp.arange(length))[None]
        x = x + nn.Embed(c.segments, c.hidden, name="segments")(segments)
        x = _norm(c, "embeddings_norm")(x)
        seen = (mask > 0)[:, None, None]
        for i in range(c.layers):
            x = Layer(c, name=f"layers_{i}")(x, seen)
        return self._output(x, mask)

    def _output(self, x: Array, mask: Array) -> Array:
        c = self.config
        if c.output == "sequence":
            return x
        if c.output in ("mean", "unit_mean"):
            shown = (mask > 0).astype(x.dtype)
            x = jnp.einsum("nlh,nl->nh", x, shown) / jnp.maximum(jnp.sum(shown, axis=1, keepdims=True), 1.0)
            return x if c.output == "mean" else x / jnp.linalg.norm(x, axis=1, keepdims=True)
        x = nn.tanh(nn.Dense(c.hidden, name="pooler")(x[:, 0]))
        return x if c.output == "pooled" else nn.Dense(c.classes, name="classifier")(x)


def _norm(config: Config, name: str) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=config.epsilon, use_fast_variance=False, name=name)


def _hugging_face_names(config: Config) -> Iterator[tuple[str, str]]:
    """Of transformers' BertModel and its kin, without the prefix "bert."."""
    for here, there in (("words", "word"), ("positions", "position"), ("segments", "token_type")):
        yield here, f"embeddings.{there}_embeddings"
    yield from [("embeddings_norm", "embeddings.LayerNorm"), ("pooler", "pooler.dense")]
    yield "classifier", "classifier"
    for i in range(config.layers):
        for here, there in (
            ("query", "attention.self.query"),
            ("key", "attention.self.key"),
            ("value", "attention.self.value"),
            ("output", "attention.output.dense"),
            ("attention_norm", "attention.output.LayerNorm"),
            ("ffn1", "intermediate.dense"),
            ("ffn2", "output.dense"),
            ("ffn_norm", "output.LayerNorm"),
        ):
            yield f"layers_{i}.{here}", f"encoder.layer.{i}.{there}"


# Places counted out, the heads that BERT was trained with, and a head that the output does not need.
NOT_READ = r"(bert\.)?embeddings\.position_ids|cls\..*|(bert\.)?pooler\..*|classifier\..*"
_TOKENS = jax.ShapeDtypeStruct((1, 8), jnp.int32)


def _no_pictures(config: Config) -> Preprocess:
    return Preprocess()  # of tokens there is none


FAMILY = Family(
    Bert,
    (Layout("Hugging Face", HUGGING_FACE, _hugging_face_names, ignored=NOT_READ),),
    _no_pictures,
    {"ids": _TOKENS, "mask": _TOKENS},
    deviation=0.02,
)


def bert_base(
    weights: Weights = None,
    key: jax.Array | None = None,
    *,
    output: str = "pooled",
    classes: int | None = None,
) -> Network:
    """BERT-base, uncased: 12 layers of hidden size 768, 109,482,240 parameters with the pooler.

    Args:
        weights: .safetensors or .pth with the names of Hugging Face's BertModel, with or without the prefix
            "bert." and the heads of its training, or a file of `save_weights`; None: drawn from `key`.
        key: for weights=None only.
        output: one of `bert.OUTPUTS`; see `Config`.
        classes: a classifier of so many classes instead.

    Raises:
        ValueError: as `Family.build`.
    """
    return FAMILY.build(_with_output(Config(), output, classes), weights, key, name="bert_base")


def minilm_l6(
    weights: Weights = None,
    key: jax.Array | None = None,
    *,
    output: str = "unit_mean",
    classes: int | None = None,
) -> Network:
    """MiniLM of 6 layers and hidden size 384 (all-MiniLM-L6-v2): 22,565,376 parameters, with the pooler
    22,713,216. Gives sentence embeddings of length 1. Arguments and errors as of `bert_base`."""
    config = Config(layers=6, hidden=384, heads=12, feed_forward=1536)
    return FAMILY.build(_with_output(config, output, classes), weights, key, name="minilm_l6")


def _with_output(config: Config, output: str, classes: int | None) -> Config:
    if classes is None:
        return replace(config, output=output)
    return replace(config, output="classes", classes=classes)
