"""Whole slices through the network of the package, by each engine that is installed, in slices per second."""

from __future__ import annotations

from collections import deque
from importlib.util import find_spec

from benchmarks.measure import Setup, open_slices, seconds
from p2ch13.config import ENGINES, OPENVINO
from p2ch13.detection.segment import predict_slices
from p2ch13.network.checkpoint import load_model
from p2ch13.network.compute import keep_freed_memory
from p2ch13.network.engine import choose_engine
from p2ch13.weights import find_weights

INSTALL = f"{OPENVINO}: pip install -e '.[{OPENVINO}]'"


def is_installed() -> bool:
    return find_spec(OPENVINO) is not None


def measure_engines(setup: Setup) -> dict[str, list[float]]:
    """Measure the rates of all of `ENGINES`, alternating, in the number format that detection chooses here."""
    keep_freed_memory()
    ct, box = open_slices(setup)
    networks = {engine: choose_engine(load_model(find_weights()).eval(), engine) for engine in ENGINES}
    rates: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    for _ in range(1 + setup.sizes.rounds):  # the first time compiles, and prepares kernels
        for engine, network in networks.items():
            slices = predict_slices(ct, box, network, tta=False, pixel_mm=0.0, precision="auto")
            rates[engine].append((box[0].stop - box[0].start) / seconds(deque, slices, 0))
    return {engine: own[1:] for engine, own in rates.items()}
