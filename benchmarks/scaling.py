"""Evaluations of bits by 1, 2 and 4 processes or devices on this machine's cores, each with as much to do.

Weak scaling: `unit` (scaling_unit.py) evaluates CANDIDATES configurations a generation for each process or
device, so N grows with them. A run of u units may use min(u, cores) cores, of those that the process really
has, and

    efficiency(u) = rate(u) / (min(u, cores) · rate(1)),    rate in evaluations per second.

Processes share by `hosts=`, devices (virtual, of one process) by `mesh=`. Those with more units than cores
are measured to see what sharing costs, not to be faster. All of them must find the same costs.

Communication is counted, not estimated: `bytes_sent` is what each process hands to the gather in a generation
of N = 10^5 configurations, with all headers, counted while that many rows are exchanged. From the bytes that
a host then receives, and the settings BANDWIDTH and LATENCY of a network, comes the number of hosts from
which on it would take more than 5 % of a generation's time, if each evaluates at the rate of one process:

    t(h) = N / (h · rate),   c(h) = gathers · (h - 1) · LATENCY + received(h) / BANDWIDTH,   c / (t + c) > 5 %

Not in it: what every process does by itself, such as NEMO's ask and tell, which no host takes off another.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from .common import QUICK, finish, say

UNITS = (1, 2, 4)
CANDIDATES = 8 if QUICK else 64  # of each unit in a generation
GENERATIONS = 2 if QUICK else 10
IMAGES = 16 if QUICK else 64
DEPTH = 8 if QUICK else 20  # of the ResNet for CIFAR-10
POPULATION = 100_000
BANDWIDTH_BYTES_PER_S = 1.25e9  # 10 Gbit/s
LATENCY_S = 50e-6  # of one message
SHARE = 0.05
MOST_HOSTS = 10_000_000


def run(kind: str, units: int) -> list[dict[str, Any]]:
    """What each process reports."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    cores = sorted(os.sched_getaffinity(0))
    processes = units if kind == "processes" else 1
    started = []
    for index in range(processes):
        wanted = {
            "kind": kind,
            "units": units,
            "index": index,
            "address": address,
            "cores": [cores[index % len(cores)]] if processes > 1 else cores[: min(units, len(cores))],
            "candidates": CANDIDATES,
            "generations": GENERATIONS,
            "images": IMAGES,
            "depth": DEPTH,
            "population": POPULATION,
        }
        devices = units if kind == "devices" else 1
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.scaling_unit", json.dumps(wanted)],
                env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
                cwd=Path(__file__).resolve().parents[1],
                stdout=subprocess.PIPE,
                text=True,
            )
        )
    outputs = [process.communicate(timeout=1800)[0] for process in started]
    failed = [process.returncode for process in started if process.returncode]
    if failed:
        raise RuntimeError(f"{kind} {units}: {len(failed)} of {processes} processes failed")
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def communication_s(hosts: int, received_bytes: float, gathers: float) -> float:
    """Seconds of a generation's exchanges: a ring of h - 1 steps for each, then the bytes."""
    return gathers * (hosts - 1) * LATENCY_S + received_bytes / BANDWIDTH_BYTES_PER_S


def hosts_at_share(rate: float, content_bytes: float, header_bytes: float, gathers: float) -> int | None:
    """The fewest hosts for which communication takes more than SHARE; None: up to MOST_HOSTS none."""

    def beyond(hosts: int) -> bool:
        received = (content_bytes + hosts * header_bytes) * (hosts - 1) / hosts
        spent = communication_s(hosts, received, gathers)
        return spent > SHARE * (POPULATION / (hosts * rate) + spent)

    low, high = 1, MOST_HOSTS
    if not beyond(high):
        return None
    while high - low > 1:  # the share rises with the hosts
        middle = (low + high) // 2
        low, high = (low, middle) if beyond(middle) else (middle, high)
    return high


def main() -> None:
    cores = len(os.sched_getaffinity(0))
    rates: dict[str, dict[int, float]] = {"processes": {}, "devices": {}}
    efficiency: dict[str, dict[int, float]] = {"processes": {}, "devices": {}}
    digests, sent, gathers, headers = set(), {}, 0.0, 0.0
    for kind in rates:
        for units in UNITS:
            reports = run(kind, units)
            slowest = max(report["seconds"] for report in reports)
            rates[kind][units] = units * CANDIDATES * GENERATIONS / slowest
            efficiency[kind][units] = rates[kind][units] / (min(units, cores) * rates[kind][1])
            digests |= {report["digest"] for report in reports}
            if kind == "processes":
                sent[units] = [report["bytes_sent"] for report in reports]
                gathers = reports[0]["gathers"]
                headers = reports[0]["header_bytes"]
            say(
                f"{units} {kind}: {rates[kind][units]:.1f} evaluations/s, "
                f"efficiency {efficiency[kind][units]:.2f} of {min(units, cores)} cores"
            )
    content = sum(sent[max(UNITS)]) - max(UNITS) * headers
    finish(
        "scaling",
        {
            "settings": {
                "cores": cores,
                "candidates_per_unit": CANDIDATES,
                "generations": GENERATIONS,
                "images": IMAGES,
                "network": f"ResNet-{DEPTH} for CIFAR-10, drawn weights",
                "bandwidth_bytes_per_s": BANDWIDTH_BYTES_PER_S,
                "latency_s": LATENCY_S,
                "population": POPULATION,
            },
            "evaluations_per_s": rates,
            "weak_scaling_efficiency": efficiency,
            "same_costs": len(digests) == 1,
            "bytes_sent": sent,  # by each process, in a generation of `population`
            "bytes_per_candidate": content / POPULATION,
            "header_bytes": headers,
            "gathers_per_generation": gathers,
            "hosts_at_5_percent": hosts_at_share(rates["processes"][1], content, headers, gathers),
        },
        store=os.getloadavg()[0] <= cores + 4,  # of a busy machine nothing is kept
    )


if __name__ == "__main__":
    main()
