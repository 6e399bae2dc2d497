"""From settings to a task: images, network, quantizers. What the console script and notebooks share."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields as dataclass_fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import jax
import numpy as np

from hwmodel import Workload, check_fields, trace

from .calibration import QuantizerConfig
from .config import GUIDED, NemoConfig
from .images import Parts, load_labelled, split
from .limits import bytes_of
from .networks import NETWORKS, Network, by_name
from .objectives import Disagreement, KLDivergence, Score, TopKError
from .photographs import sample_photographs
from .quantized import quantize
from .space import PAPER_BITS, BitSpace
from .species import SPECIES
from .survival import SURVIVALS
from .task import Task, classification, fidelity, search_space

Say = Callable[[str], None]
WARM_STARTS = ("fisher", "sqnr", "none")


@dataclass(frozen=True)
class RunSettings:
    """Everything that decides the outcome of `nemojax search`; written beside it as settings.json."""

    network: str = "efficientnet_lite0"  # of networks.NETWORKS
    images: str | None = None  # folder or zip; None: crops of photographs that ship with the extras
    weights: str = "imagenet"  # of a package, or a file
    resolution: int = 128  # pixels; a network is trained at more, EfficientNet-Lite0 at 224
    calibration: int = 32  # images that set the quantizers' ranges
    search: int = 48  # images that the objectives are measured on
    report: int = 48  # images that the result is reported on, never searched on
    top_k: int = 5  # of the error on labelled images
    bits: tuple[int, ...] = PAPER_BITS
    pins: tuple[tuple[str, int], ...] = ()  # (quantizer or glob pattern, bit-width)
    sets: tuple[tuple[str, tuple[int, ...]], ...] = ()  # (quantizer or pattern, its bit-widths)
    ties: tuple[tuple[str, ...], ...] = ()  # patterns whose quantizers share one bit-width
    pairs: tuple[tuple[int, int], ...] = ()  # (weight bits, activation bits) that the hardware multiplies
    limits: tuple[tuple[str, str], ...] = ()  # (objective or "size", its highest value)
    activation_range: str = "mse"  # see QuantizerConfig
    weight_range: str = "minmax"
    population: int = 20
    species: tuple[str, ...] = GUIDED.species
    survival: str = "nsga3"
    warm_start: str = "fisher"  # measure of the sensitivity table, or "none"
    seed: int = 0

    def __post_init__(self):
        check_fields(self)
        if self.network not in NETWORKS:
            raise ValueError(f"network is {self.network!r}: the known ones are {', '.join(NETWORKS)}")
        if self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        for name, least in (("calibration", 1), ("search", 1), ("report", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least} image, got {getattr(self, name)}")
        wanted = {"every quantizer": self.bits, **{name: (width,) for name, width in self.pins}}
        BitSpace(tuple(wanted), tuple(wanted.values()))  # its own checks, before anything is loaded
        for pattern, bits in self.sets:
            BitSpace((pattern,), (bits,))
        self.quantizers, self.nemo, self.upper_limits  # likewise  # noqa: B018
        for name in self.species:
            if name not in SPECIES:
                raise ValueError(f"species holds {name!r}: the known ones are {', '.join(SPECIES)}")
        if self.survival not in SURVIVALS:
            raise ValueError(f"survival is {self.survival!r}: the known ones are {', '.join(SURVIVALS)}")
        if self.warm_start not in WARM_STARTS:
            raise ValueError(f"warm_start must be one of {', '.join(WARM_STARTS)}, got {self.warm_start!r}")
        if self.warm_start == "none" and "priced" in self.species:
            others = ",".join(name for name in self.species if name != "priced")
            raise ValueError(f"species 'priced' needs a warm_start: give one, or species {others}")

    @property
    def quantizers(self) -> QuantizerConfig:
        return QuantizerConfig(activation_range=self.activation_range, weight_range=self.weight_range)

    @property
    def nemo(self) -> NemoConfig:
        return NemoConfig(population=self.population, species=self.species, survival=self.survival)

    @property
    def upper_limits(self) -> dict[str, float | str]:
        """As `search` takes them: "size" as text with its unit, the others as numbers."""
        found: dict[str, float | str] = {}
        for name, value in self.limits:
            try:
                found[name] = value if name == "size" else float(value)
            except ValueError:
                raise ValueError(f"limits: {name} must be a number, got {value!r}") from None
        if "size" in found:
            bytes_of(found["size"])  # for its ValueError
        return found

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "RunSettings":
        """What `as_dict` gave.

        Raises:
            ValueError: a field that there is not, or a value that it cannot have.
        """
        if not isinstance(fields, Mapping):
            raise ValueError(f"the settings of the run are damaged: they are no object but {fields!r:.60}")
        unknown = sorted(fields.keys() - {field.name for field in dataclass_fields(cls)})
        if unknown:
            raise ValueError(f"the settings hold {unknown[0]!r}, which this version does not know")
        values = dict(fields)
        try:
            values["bits"] = tuple(values.get("bits", PAPER_BITS))
            values["pins"] = tuple((str(name), int(bits)) for name, bits in values.get("pins", ()))
            values["sets"] = tuple((str(name), tuple(bits)) for name, bits in values.get("sets", ()))
            for name in ("ties", "pairs", "limits"):
                values[name] = tuple(tuple(row) for row in values.get(name, ()))
            values["species"] = tuple(values.get("species", GUIDED.species))
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"the settings of the run are damaged: {error}") from None

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, tuples as lists."""
        return json.loads(json.dumps(asdict(self)))


def quantizers_of(settings: Mapping[str, Any]) -> QuantizerConfig:
    """How the quantizers of a front or a configuration were set up, by its settings; the defaults if unsaid.

    Raises:
        ValueError: settings that no quantizers can have.
    """
    if "quantizers" in settings:
        try:
            return QuantizerConfig(**settings["quantizers"])
        except TypeError as error:
            raise ValueError(f"the settings of the quantizers are damaged: {error}") from None
    return RunSettings.from_dict(settings.get("run", {})).quantizers


def run_settings(name: str, settings: Mapping[str, Any]) -> RunSettings:
    """Of the file `name` with these settings, for `prepare` to set up what it was searched with.

    Raises:
        ValueError: a search in Python with quantizers that no settings here give.
    """
    found = RunSettings.from_dict(settings.get("run", {}))
    if quantizers_of(settings) != found.quantizers:
        raise ValueError(
            f"{name} was searched in Python with quantizers that no option sets: use nemojax.export and "
            "nemojax.evaluate_batches there"
        )
    return found


def workload_of(settings: RunSettings) -> Workload:
    """The network's operations and points, without images and calibration.

    Raises:
        ValueError: a network or weights that there are not.
    """
    network = by_name(settings.network, settings.weights, resolution=settings.resolution)
    side = network.preprocess.resolution
    return trace(
        network.apply,
        jax.eval_shape(lambda params: params, network.params),
        jax.ShapeDtypeStruct((1, side, side, 3), np.float32),
        quantize_pooled_input=settings.quantizers.quantize_pooled_input,
    )


class Prepared(NamedTuple):
    """A task, the same one on the images of the report, and where both come from."""

    task: Task
    report: Task
    report_scores: tuple[Score, ...]
    facts: dict[str, Any]  # JSON-able: sources, digests and versions, kept with the result
    key: jax.Array  # for whatever else the run draws


def prepare(settings: RunSettings, say: Say = lambda _: None) -> Prepared:
    """Reads images and weights, traces and calibrates. `say` is told what happens, a line at a time.

    Raises:
        ValueError: anything wrong with a setting or a file, in one line that says what to do.
    """
    network = by_name(settings.network, settings.weights, resolution=settings.resolution)
    say(f"network: {network.name}, {network.weights_source}")
    k_images, k_rest = jax.random.split(jax.random.key(settings.seed))
    parts, labelled, source = _images(k_images, settings, network)
    say(f"images: {source}; {settings.resolution}x{settings.resolution} pixels")
    quantized = quantize(network, parts.calibration.images, settings.quantizers)
    work = quantized.workload
    say(
        f"graph: {len(work.operations)} operations, {work.column('macs').sum() / 1e6:.0f} million MACs, "
        f"{len(work.points)} quantizers, calibrated on {len(parts.calibration)} images"
    )
    space = search_space(
        quantized,
        settings.bits,
        dict(settings.pins),
        sets=dict(settings.sets),
        ties=settings.ties,
        pairs=settings.pairs or None,
    )
    report_scores: tuple[Score, ...]
    if labelled:
        task = classification(
            quantized, parts.search.images, parts.search.labels, top_k=settings.top_k, space=space
        )
        report = task.on(parts.report.images, parts.report.labels)
        report_scores = tuple(TopKError(k) for k in sorted({1, settings.top_k}))
    else:
        task = fidelity(quantized, parts.search.images, space=space)
        report = task.on(parts.report.images)
        report_scores = (KLDivergence(), Disagreement())
    facts = {
        "network": network.name,
        "weights": network.weights_source,
        "images": source,
        "images_sha256": {name: _digest(part.images) for name, part in parts._asdict().items()},
        "versions": {name: _version(name) for name in ("frugaljax", "jax", "jaxlib", "numpy")},
        "backend": jax.default_backend(),
    }
    return Prepared(task, report, report_scores, facts, k_rest)


def _images(key: jax.Array, settings: RunSettings, network: Network) -> tuple[Parts, bool, str]:
    counts = {"calibration": settings.calibration, "search": settings.search, "report": settings.report}
    if settings.images is None:
        photographs = sample_photographs(key, network.preprocess, **counts)
        source = (
            f"crops of {', '.join(photographs.search_names)} for the search, "
            f"of {', '.join(photographs.report_names)} for the report"
        )
        return photographs.parts, False, source
    wanted = sum(counts.values())
    images = load_labelled(settings.images, network.preprocess, classes=classes_of(network))
    if len(images) < wanted:
        raise ValueError(
            f"{settings.images} holds {len(images)} images, but calibration + search + report take "
            f"{' + '.join(map(str, counts.values()))} = {wanted}: lower them"
        )
    return split(key, images, **counts), True, f"{wanted} of {len(images)} labelled images"


def classes_of(network: Network) -> int:
    """What a network of pictures tells apart.

    Raises:
        ValueError: it takes no pictures of the size that its `preprocess` makes, or gives no logits.
    """
    side = network.preprocess.resolution
    image = jax.ShapeDtypeStruct((1, side, side, 3), np.float32)
    try:
        shape = jax.eval_shape(network.apply, network.params, image).shape
    except Exception as error:  # whatever a user's function raises on such an image
        reason = str(error).splitlines()[0]
        raise ValueError(f"{network.name} takes no images {image.shape}: {reason}") from None
    if len(shape) != 2:
        raise ValueError(
            f"{network.name} gives an array {shape}, no logits (N, classes): it classifies nothing"
        )
    return shape[1]


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
