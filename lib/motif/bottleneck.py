"""What holds a run of encoding up."""

import math
from collections.abc import Mapping

MEASURABLE, IDLE, SATURATED = 0.01, 0.5, 0.9
"""Shares of time: of an encoder that did something, of the busiest stage, of a full encoder."""


def find(use: Mapping[str, float], *, cpus: float, gpus: float) -> dict[str, str | None]:
    """Name the stage that holds a run up, and what would help.

    Fetching and decoding share the CPUs: their places are busy for fetch + decode. When they hold
    the encoder up, it would do 1 / encode times as many images if it never waited, so that
    cpus * (1 / encode - 1) / gpus more CPUs per GPU would feed it, at the present images per CPU.

    Args:
        use: Share of its places' time, in [0, 1], in which each stage was busy.
        cpus: That fetch and decode.
        gpus: That encode; 0 when it is the same CPUs, which every stage then takes from the others.

    Returns:
        `stage`, None if no stage is busy, and `verdict` in words.
    """
    encode, write = use["encode"], use["write"]
    feed = min(use["fetch"] + use["decode"], 1)
    # On CPUs, two stages that are each half busy leave nothing idle.
    busiest = max(encode, feed, write) if gpus else max(encode + feed, write)
    encoder = f"the encoder was busy {100 * encode:.0f} % of the time"
    where = "" if gpus else "on CPUs, "
    if busiest < IDLE:
        stage = None
        verdict = (
            f"no stage is busy: {encoder}, fetching and decoding {100 * feed:.0f} %; the rest is"
            " start-up, scheduling or waiting"
        )
    elif encode >= max(feed, write) or (gpus and encode >= SATURATED):
        stage = "encode"
        verdict = f"{where}encode-bound: {encoder}; " + (
            "more or faster GPUs would help, more CPUs would not"
            if gpus
            else "more or faster CPUs, or a GPU, would help"
        )
    elif write > feed:
        stage = "write"
        verdict = (
            f"{where}write-bound: the writers were busy {100 * write:.0f} % of the time; a faster"
            " store for --output would help"
        )
    elif use["fetch"] > use["decode"]:
        stage = "fetch"
        waited = use["fetch"] / (use["fetch"] + use["decode"])
        verdict = (
            f"{where}fetch-bound: decoding waited for bytes {100 * waited:.0f} % of its time;"
            f" more reads in flight (--in-flight) or a nearer store would help; {encoder}"
        )
    else:
        stage = "decode"
        more = "more CPUs"
        if gpus and encode >= MEASURABLE:
            wanted = max(math.ceil(cpus * (1 / encode - 1) / gpus), 1)
            more = f"about {wanted:,} more CPU{'s' * (wanted > 1)} per GPU"
        verdict = f"{where}decode-bound: {more} would help; {encoder}"
    return {"stage": stage, "verdict": verdict}
