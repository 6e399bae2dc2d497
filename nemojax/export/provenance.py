"""Where an exported file comes from."""

from importlib.metadata import PackageNotFoundError, version

from ..quantized import QuantizedNetwork


def provenance(network: QuantizedNetwork) -> dict[str, str]:
    """What every exported file says about where it comes from."""
    return {
        "network": network.name,
        "weights_source": network.weights_source,
        "frugaljax": installed_version("frugaljax"),
    }


def installed_version(package: str) -> str:
    """Its version, or "not installed"."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
