"""A species whose genotype is one policy for bits and memories: one trunk, two groups of heads.

NEMO's policies (Miret et al. 2022) give each quantizer logits of bit-widths, EGRL's (Khadka et al. 2021) give
each operation logits of levels for its weights and for its output. Here one network on the joint graph does
both [ours]: the last layer has W columns for bit-widths, read at points, and 2 L columns for levels, read at
operations. Levels are given out by margins at the bit-widths just chosen, beginning at the density rule's
logits, as EGRL acts; so every placement fits (with packed bytes), and fewer bits make room for more tensors.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from egrljax import (
    PolicyConfig,
    act_greedily,
    apply_population,
    environment_at,
    genome,
    policy,
    start_logits,
)

from ..chip_bits import tensor_bits
from ..joint_graph import joint_graph
from ..joint_space import JointSpace
from .graph import SPREAD_BITS, PolicyEvolution, ssne_rates
from .protocol import Setting, Species


def _joint_species(setting: Setting, block: str) -> Species:
    space, own = setting.space, setting.config.graph
    if not isinstance(space, JointSpace):
        raise ValueError(
            f"species 'joint_{block}' chooses bit-widths and memories: give a task of joint(task), not a "
            f"{type(space).__name__}"
        )
    base, workload, chip = space.parts
    graph = jax.tree.map(jnp.asarray, joint_graph(workload, chip, own.edges))  # type: ignore[arg-type]
    points, widths, levels = space.points, base.widths, len(chip.levels)
    shape = PolicyConfig(
        block=block,  # type: ignore[arg-type]
        hidden=own.hidden,
        heads=own.heads,
        depth=own.depth,
        ratio=own.ratio,
        choices=len(widths) + 2 * levels,
        add_self_edges=False,
    )
    net = policy(shape)
    layout = genome(jax.eval_shape(net.init, jax.eval_shape(jax.random.key, 0), graph))
    algorithm = PolicyEvolution(
        setting.slots,
        layout,
        own.operators,
        ssne_rates(own.crossover_rate, own.mutation_rate),
        own.tournament,
        not setting.config.resize.rate_limited,
    )
    environment = environment_at(workload, chip)

    def choose(logits: Float[Array, "V C"]) -> Int[Array, " G"]:
        scores = base.by_choice(logits[:points, : len(widths)])
        bits = base.resolve(scores, ties=own.ties)  # type: ignore[arg-type]
        env = environment(tensor_bits(workload, chip, bits))
        wish = logits[points:, len(widths) :].reshape(-1, 2, levels)
        maps = act_greedily(env, (start_logits(env, "density") + wish)[None])
        return space.join(bits, maps[0])

    def decode(
        key: jax.Array,
        genotypes: Float[Array, "C P"],
        live: Int[Array, ""] | int,
        nodes: Float[Array, "V F"] = graph.nodes,
    ) -> Int[Array, "C G"]:
        read = graph._replace(nodes=nodes)
        logits = apply_population(net, layout, genotypes, read, chunk=own.chunk, live=live)[:, :, 0]
        if own.decision == "sample":  # Gumbel-max
            draws = jax.random.gumbel(key, (logits.size,), logits.dtype)
            logits = logits + draws.reshape(logits.shape)
        return jax.lax.map(choose, logits, batch_size=own.chunk)

    def init(key: jax.Array) -> Float[Array, "C P"]:
        """As the graph species start: each policy around a bit-width of its own, memories near the rule."""
        k_draw, k_level, k_scale = jax.random.split(key, 3)
        keys = jax.random.split(k_draw, setting.slots)
        drawn = jax.lax.map(lambda k: layout.ravel(net.init(k, graph)), keys)
        if own.init != "levels":
            return drawn
        level = jax.random.uniform(k_level, (setting.slots, 1), minval=widths[0], maxval=widths[-1])
        scale = jax.random.uniform(k_scale, (setting.slots, 1))
        distance = jnp.asarray(widths, jnp.float32)[None] - level
        kernel, bias = (
            np.flatnonzero(layout.segments == layout.names.index(f"params/logits/{part}"))
            for part in ("kernel", "bias")
        )
        drawn = drawn.at[:, kernel].multiply(scale)
        return drawn.at[:, bias[: len(widths)]].set(-0.5 * (distance / SPREAD_BITS) ** 2)

    return Species(
        algorithm=algorithm,
        params=algorithm.default_params,
        init=init,
        decode=decode,
        encode=None,
        data=graph.nodes,
    )


def joint_gcn(setting: Setting) -> Species:
    """Graph convolution, graph attention, linear layers; as `gcn`, for a joint space."""
    return _joint_species(setting, "gcn")


def joint_unet(setting: Setting) -> Species:
    """The same with a Graph U-Net as the first block."""
    return _joint_species(setting, "unet")


def joint_mlp(setting: Setting) -> Species:
    """The same on the nodes' own features, which no edge reaches: an ablation."""
    return _joint_species(setting, "mlp")
