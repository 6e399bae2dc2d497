"""What MobileNet-V2 and EfficientNet-Lite share beyond their blocks: the shape of the table, timm's names."""

from collections.abc import Iterator, Sequence

from nemojax.networks.layers import Stage, round_channels

LAYERS = ("expand", "depthwise", "project")


def single_blocks(stages: Sequence[Stage], repeats: Sequence[int], width: float) -> tuple[Stage, ...]:
    """One single-repeat Stage per block, channels multiplied by `width`."""
    return tuple(
        Stage(1, s.kernel, s.stride if i == 0 else 1, s.expansion, round_channels(s.channels * width))
        for s, count in zip(stages, repeats, strict=True)
        for i in range(count)
    )


def layers_of(block: Stage) -> tuple[str, ...]:
    """Its convolutions; without an expansion where that would be by 1."""
    return LAYERS[1:] if block.expansion == 1 else LAYERS


def timm_names(stages: Sequence[Stage], repeats: Sequence[int]) -> Iterator[tuple[str, str]]:
    """(layer here, layer in timm), where blocks are counted inside stages."""
    yield from [("stem", "conv_stem"), ("stem_bn", "bn1"), ("head", "conv_head"), ("head_bn", "bn2")]
    yield "classifier", "classifier"
    there = [f"blocks.{s}.{i}" for s, count in enumerate(repeats) for i in range(count)]
    for block, (name, stage) in enumerate(zip(there, single_blocks(stages, repeats, 1.0), strict=True)):
        layers = layers_of(stage)
        convolutions = ("conv_dw", "conv_pw") if len(layers) == 2 else ("conv_pw", "conv_dw", "conv_pwl")
        for number, (layer, convolution) in enumerate(zip(layers, convolutions, strict=True), 1):
            yield f"blocks_{block}.{layer}", f"{name}.{convolution}"
            yield f"blocks_{block}.{layer}_bn", f"{name}.bn{number}"
