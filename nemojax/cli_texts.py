"""What options of the console script say, as values; errors name the option."""

import hwmodel as hw


def parsed_chip(name: str, rates: list[str] | None) -> hw.Chip | None:
    """Of --chip and --rate; what is to be said of it stands in the report."""
    return None if name == "none" else hw.load_chip(name, hw.parse_rates(rates), warn=False)


def parsed_bits(text: str, option: str = "--bits") -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{option} must be numbers with commas, such as 2,4,8, got {text!r}") from None


def parsed_pins(texts: list[str]) -> tuple[tuple[str, int], ...]:
    pins: dict[str, int] = {}
    for text in texts:
        name, _, bits = text.rpartition("=")
        if not name or not bits.isdigit():
            raise ValueError(f"--pin must be NAME=BITS, such as 'stem.weight=8', got {text!r}")
        if pins.setdefault(name, int(bits)) != int(bits):
            raise ValueError(f"contradictory pins: {name!r} is given {pins[name]} and {bits} bits: drop one")
    return tuple(pins.items())


def parsed_names(texts: list[str], option: str, example: str) -> list[tuple[str, str]]:
    pairs = [text.rpartition("=")[::2] for text in texts]
    for text, (name, value) in zip(texts, pairs, strict=True):
        if not name or not value:
            raise ValueError(f"{option} must be NAME=VALUE, such as {example!r}, got {text!r}")
    return pairs


def parsed_pairs(text: str) -> tuple[tuple[int, int], ...]:
    try:
        found = [tuple(int(bits) for bits in pair.split("x")) for pair in text.split(",") if pair]
        return tuple((weight, activation) for weight, activation in found)
    except ValueError:
        raise ValueError(f"--pairs must be like 8x8,4x8 (weight x activation bits), got {text!r}") from None


def parsed_limits(texts: list[str]) -> dict[str, float]:
    limits = {}
    for text in texts:
        name, _, limit = text.partition("=")
        try:
            limits[name] = float(limit)
        except ValueError:
            raise ValueError(
                f"--pick must be OBJECTIVE=LIMIT, such as model_ratio=0.2, got {text!r}"
            ) from None
    return limits
