"""Rows of detection_table: methods with the options that validation chooses from."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from fewshotjax import detection as de
from fewshotjax.detection import methods

from .common import QUICK
from .detection_cells import CE, DML, REPMET, SHOTS, SOFTMAX

RATES = (5e-3,) if QUICK else (1e-2, 1e-1)
TUNED_AT_ONCE = 5  # photographs of a step; the authors have 1, which takes five times as many
# Epochs of fine-tuning by shots: more photographs have more steps an epoch.
LENGTHS = dict.fromkeys(SHOTS, (1,)) if QUICK else {1: (3, 10), 5: (2, 5), 10: (1, 3)}
SIGMAS = (1.0,) if QUICK else (0.7, 1.0, 1.4)  # times the one that was trained
PROTOTYPE_SIGMAS = (0.3,) if QUICK else (0.1, 0.2, 0.4)
EXTERNAL_SIGMAS = (0.5,) if QUICK else (0.25, 0.5, 0.8)
# Of the fine-tuned detector: steps, regions of a support photograph, rates of the softmax layer and of what
# lies before it.
FINE_STEPS, FINE_REGIONS = (2, 4) if QUICK else (30, 16)
FINE_RATES, BEFORE_RATES = ((0.02,), (1e-3,)) if QUICK else ((0.01, 0.05), (1e-4, 1e-3))
MODES = (None,) if QUICK else (None, 1)  # None: max(5, 2 * shots), the authors' number

Options = dict[str, de.DetectionMethod]


class Row(NamedTuple):
    """A line of the table."""

    name: str
    objective: str  # whose detector it stands on
    options: Callable[[de.Net, Any, int], Options]  # of the net, of what the row `after` chose, and shots
    after: str | None = None  # a row that chooses first: what it chose is kept
    view: str = "regions"
    seen_only: bool = False  # on classes that were trained on alone


def with_sigma(net: de.Net, sigma: float) -> de.Net:
    head = replace(net.config.head, sigma=sigma)
    return replace(net, config=replace(net.config, head=head))


def _sigmas(net: de.Net) -> dict[str, de.Net]:
    own = net.config.head.sigma
    return {f"sigma {own * factor:.3g}": with_sigma(net, own * factor) for factor in SIGMAS}


def _tunings(shots: int) -> dict[str, de.DetectionTuning]:
    return {
        f"rate {rate:g}, {epochs} epochs": de.DetectionTuning(
            learning_rate=rate, epochs=epochs, per_step=TUNED_AT_ONCE
        )
        for rate in RATES
        for epochs in LENGTHS[shots]
    }


def _support(modes: int | None) -> de.SupportConfig:
    return de.SupportConfig(modes=modes)


def _repmet(net: de.Net, _: Any, shots: int) -> Options:
    return {
        f"{told}, modes {modes or 'max(5, 2 shots)'}": methods.repmet(one, _support(modes))
        for told, one in _sigmas(net).items()
        for modes in MODES
    }


def read(told: str, net: de.Net) -> tuple[de.Net, int | None]:
    """The net and the modes of an option of `_repmet` or of the metric baseline, by its words."""
    sigma = next(one for words, one in _sigmas(net).items() if told.startswith(words))
    return sigma, None if "max" in told else 1


def _repmet_tuned(net: de.Net, told: str, shots: int) -> Options:
    own, modes = read(told, net)
    return {
        words: methods.repmet(own, _support(modes), tuning=tuning)
        for words, tuning in _tunings(shots).items()
    }


def _baseline(net: de.Net, _: Any, shots: int) -> Options:
    return {told: methods.class_mean(one) for told, one in _sigmas(net).items()}


def _floor(net: de.Net, told: str, shots: int) -> Options:
    return {told: methods.class_mean(read(told, net)[0])}


def _fine_tuned(net: de.Net, _: Any, shots: int) -> Options:
    return {
        f"rate {rate:g}, {before:g} before": methods.fine_tuned(
            net, steps=FINE_STEPS, learning_rate=rate, tuned_rate=before, regions=FINE_REGIONS
        )
        for rate in FINE_RATES
        for before in BEFORE_RATES
    }


def _prototypes(net: de.Net, _: Any, shots: int) -> Options:
    return {
        f"sigma {sigma:g}": methods.prototype_regions(with_sigma(net, sigma)) for sigma in PROTOTYPE_SIGMAS
    }


def _external(net: de.Net, _: Any, shots: int) -> Options:
    alone = de.SupportConfig(regions=0)
    return {f"sigma {sigma:g}": methods.external(with_sigma(net, sigma), alone) for sigma in EXTERNAL_SIGMAS}


def _trained(net: de.Net, _: Any, shots: int) -> Options:
    return {"": methods.trained(net)}


EXTERNALS = {
    Row("external embedding of crops", CE, _external): SOFTMAX,
    Row("external embedding of crops, DML", CE, _external): DML,
}
ROWS = (
    Row("repmet", REPMET, _repmet),
    Row("repmet, tuned", REPMET, _repmet_tuned, after="repmet"),
    Row("trained representatives", REPMET, _trained, seen_only=True),
    Row("metric baseline", CE, _baseline),
    Row("metric baseline, tuned", CE, _repmet_tuned, after="metric baseline"),
    Row("fine-tuned detector", CE, _fine_tuned),
    Row("class-agnostic proposals, prototypes", CE, _prototypes),
    Row("whole photograph, class mean", CE, _floor, after="metric baseline", view="whole"),
    Row("centred box, class mean", CE, _floor, after="metric baseline", view="centred"),
    *EXTERNALS,
)
REPMET_ROWS = ("repmet", "repmet, tuned")


def variants(net: de.Net, told: str) -> Options:
    """Ablations of what RepMet does with the support, with the option that validation chose."""
    own, modes = read(told, net)
    support = _support(modes)
    maximum = replace(own, config=replace(own.config, head=replace(own.config.head, posterior="maximum")))
    found = {
        "as chosen": methods.repmet(own, support),
        "class mean": methods.class_mean(own),
    }
    if QUICK:
        return found
    return {
        **found,
        "all support vectors": methods.nearest(own),
        "one mode": methods.repmet(own, _support(1)),
        "max(5, 2 shots) modes": methods.repmet(own, _support(None)),
        "posterior maximum": methods.repmet(maximum, support),
        "compat filler": methods.repmet(own, replace(support, compat_filler=True)),
        "compat support": methods.repmet(own, replace(support, compat_support=True)),
        "boxes alone": methods.repmet(own, replace(support, regions=0)),
        "base classes compete": methods.repmet(own, replace(support, keep_base=True)),
    }


def settings() -> dict[str, Any]:
    return {
        "tuning": [repr(one) for shots in SHOTS for one in _tunings(shots).values()],
        "sigmas": [list(SIGMAS), list(PROTOTYPE_SIGMAS), list(EXTERNAL_SIGMAS)],
        "fine_tuned": [FINE_STEPS, FINE_REGIONS, list(FINE_RATES), list(BEFORE_RATES)],
        "modes": list(MODES),
        "support": repr(de.SupportConfig()),
    }
