"""Peak resident memory of a search at population 64, with everything that the process holds."""

import jax

import nemojax as nemo

from .common import QUICK, finish, peak_gib

RESOLUTION, IMAGES, POPULATION = (64, 32, 64) if QUICK else (160, 64, 64)
GENERATIONS = 1 if QUICK else 3


def main() -> None:
    key = jax.random.key(0)
    net = nemo.efficientnet_lite0("imagenet", resolution=RESOLUTION)
    parts = nemo.sample_photographs(key, net.preprocess, calibration=32, search=IMAGES, report=1).parts
    task = nemo.fidelity(nemo.quantize(net, parts.calibration.images), parts.search.images)
    found = nemo.search(
        key, task, budget=GENERATIONS * POPULATION, config=nemo.NemoConfig(population=POPULATION)
    )
    finish(
        "peak_memory",
        {
            "settings": {"resolution": RESOLUTION, "images": IMAGES, "population": POPULATION, "seed": 0},
            "evaluations": len(found.bits),
            "peak_gib": round(peak_gib(), 3),
            "limit_gib": 3,
        },
    )


if __name__ == "__main__":
    main()
