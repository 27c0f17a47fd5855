"""Many small objects from a store that fails now and then, against the same store that does not.

The store (moto's threaded server) and the proxy in front of it are processes of their own.
"""

import contextlib
import logging
import multiprocessing
import statistics
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import s3fs

from benchmarks.encode_parts import encoders, pictures
from benchmarks.encode_parts.job import Finished, encode_images
from benchmarks.measurement import Measurement, spread
from tests.fault_proxy import FaultProxy

BAR = 1.5
BUCKET = "pictures"
FAULTS = {"slow_down": 0.05, "reset": 0.01, "delay": 0.01, "delay_seconds": 5.0}
NO_FAULTS = {"slow_down": 0.0, "reset": 0.0, "delay": 0.0}
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
}


def measure(cache: Path, *, objects: int, repeats: int) -> Iterator[Measurement]:
    """Encode all objects through the proxy, with faults and without them in turns."""
    files = pictures.small(cache, objects)
    flag = encoders.flag(encoders.STUB, cache)
    output = cache / "outputs" / "s3"
    runs: dict[str, list[Finished]] = {"no_faults": [], "faults": []}
    told: list[dict[str, int]] = []
    with _process(_serve_store) as (store, _):
        uris = _upload(store, files)
        manifest = pictures.write_manifest(cache / f"s3-{objects}.parquet", uris)
        for turn in range(repeats):
            for name, faults in (("no_faults", NO_FAULTS), ("faults", FAULTS)):
                with _process(_serve_proxy, store, faults, turn) as (url, connection):
                    runs[name].append(
                        encode_images(
                            *(
                                manifest,
                                output,
                                flag,
                                "--endpoint-url",
                                url,
                                "--allow",
                                f"s3://{BUCKET}",
                            ),
                            environment=ENVIRONMENT,
                        )
                    )
                    connection.send("how often?")
                    told.append(connection.recv())
    seconds = {key: [one.record["seconds"]["encode"] for one in runs[key]] for key in runs}
    steady = {key: [_after_startup(one) for one in runs[key]] for key in runs}
    embedded = [one.record["counts"]["embedded"] for these in runs.values() for one in these]
    yield Measurement(
        part="s3",
        name=f"{objects:,} objects, seconds of encoding with faults / without",
        value=statistics.median(seconds["faults"]) / statistics.median(seconds["no_faults"]),
        at_most=BAR,
        holds=all(count == objects for count in embedded),
        figures={
            "encode_seconds": {key: spread(values) for key, values in seconds.items()},
            "without_startup_seconds": {key: spread(values) for key, values in steady.items()},
            "ratio_without_startup": round(
                statistics.median(steady["faults"]) / statistics.median(steady["no_faults"]), 3
            ),
            "embedded": embedded,
            "reads_and_faults": told,
        },
    )


def _after_startup(run: Finished) -> float:
    return run.record["seconds"]["encode"] - run.record["stages"]["startup_seconds"]


def _upload(endpoint: str, files: Sequence[Path]) -> list[str]:
    fs = s3fs.S3FileSystem(
        key=ENVIRONMENT["AWS_ACCESS_KEY_ID"],
        secret=ENVIRONMENT["AWS_SECRET_ACCESS_KEY"],
        endpoint_url=endpoint,
    )
    fs.mkdir(BUCKET)
    objects = {f"{BUCKET}/{path.parent.name}/{path.name}": path.read_bytes() for path in files}
    fs.pipe(objects)
    return [f"s3://{key}" for key in objects]


@contextlib.contextmanager
def _process(serve: Callable[..., None], *arguments: Any) -> Iterator[tuple[str, Connection]]:
    """Run a server in a process of its own; yields its URL and a line to it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs, *arguments), daemon=True)
    process.start()
    try:
        yield ours.recv(), ours
    finally:
        process.terminate()
        process.join()


def _serve_store(connection: Connection) -> None:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    connection.send(f"http://{host}:{port}")
    connection.recv()


def _serve_proxy(
    connection: Connection, upstream: str, faults: dict[str, float], seed: int
) -> None:
    with FaultProxy(upstream, **faults, seed=seed) as proxy:
        connection.send(proxy.url)
        connection.recv()
        connection.send({**proxy.faults, "most_at_once": proxy.most_at_once})
        connection.recv()
