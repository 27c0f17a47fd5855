"""What a library of very many images would take, on paper: hours, money, what limits, what grows.

    .venv/bin/python -m benchmarks.capacity
    .venv/bin/python -m benchmarks.capacity --images 1000000000 --gpu-nodes 64 --gpu-price 0.55

Nothing is run. Rates are assumptions, each a flag; those that were measured say where. Prices are
Amazon's list prices as far as we knew them, in us-east-1: put in yours.
"""

import sys
from dataclasses import dataclass

import tyro

from motif.images.plan import ROWS_PER_BUCKET
from motif.on_ray.encode import MAX_CHUNK, MAX_PART
from motif.publishing.commit import INDEX_FROM_ROWS

TERA, GIGA = 1e12, 1e9
READS_PER_PREFIX = 5500
"""A second, as S3 documents; it splits prefixes by itself as load grows."""
STOPS_AT_HEAD_MEMORY = 0.8
"""Of the head node's: beyond that, Ray's own services suffer."""


@dataclass(frozen=True)
class Tower:
    """The image tower of a CLIP model at 224 px."""

    name: str
    gmacs: float
    """Multiplications of one image, in 10^9 (open_clip's model profile)."""
    dim: int
    features_dim: int
    """Of `features`: four stages of its width."""


TOWERS = (
    Tower("ViT-B-32", 4.40, 512, 4 * 768),
    Tower("ViT-L-14", 80.7, 768, 4 * 1024),
)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Print what libraries of images take."""

    images: tuple[int, ...] = (100_000_000, 1_000_000_000)
    images_per_creator: float = 50
    image_kilobytes: float = 250
    """A JPEG of 1,080 px at quality 90."""
    gpu_nodes: int = 16
    """As many as cluster.yaml allows: one L4 and 16 vCPUs each (g6.4xlarge)."""
    cpu_nodes: int = 8
    """Of 16 vCPUs (c7i.4xlarge), which decode as well."""
    cpus_per_node: int = 16
    gpu_teraflops: float = 121
    """Of one GPU, dense bfloat16: an L4's data sheet."""
    gpu_utilisation: float = 0.35
    """Of that, what a ViT reaches in PyTorch; assumed, no GPU was at hand."""
    decoded_per_cpu: float = 100
    """Images a second that a vCPU fetches, decodes, scales and hashes; 125 from a local disk
    (benchmarks.encode, the stub encoder: 250 on two), less a fifth for TLS."""
    network_gigabits: float = 5
    """Of a node, for as long as it takes."""
    gpu_price: float = 0.53
    """Dollars an hour of a GPU node: spot at two fifths of 1.32 on demand."""
    cpu_price: float = 0.71
    head_price: float = 0.40
    head_gigabytes: float = 32
    price_per_million_reads: float = 0.40
    """Of S3's GET requests."""
    driver_gigabytes: float = 1.0
    """Of encode_images' driver with an encoder loaded and nothing planned."""
    driver_bytes_per_image: float = 7
    """What it holds of a plan, at most: 1.07 GB in all over 10 million rows (benchmarks.encode
    --only planning)."""
    driver_kilobytes_per_chunk: float = 20
    """What Ray Data holds there of a task and its blocks: assumed; the list of tasks alone was seen
    to take 4.6."""
    published_megabytes_per_cpu: float = 34
    """Of EMBEDDINGS, a second, that a core aggregates (benchmarks.publish: 25 GB, two, 371 s)."""
    planned_per_cpu: float = 190_000
    """Manifest rows a second (benchmarks.encode --only planning: 10 million in 26 s on two)."""
    adjectives: int = 32
    same_dim: int = 256


@dataclass(frozen=True)
class Estimate:
    """Of one library and one encoder."""

    tower: Tower
    images: int
    rates: dict[str, float]
    """Images a second that each part could do by itself."""
    hours: float
    dollars: float
    cpu_nodes_for_balance: float
    sizes: dict[str, str]
    stops: list[str]

    @property
    def limit(self) -> str:
        """The part that limits."""
        return min(self.rates, key=lambda part: self.rates[part])


def estimate(config: Config, tower: Tower, images: int) -> Estimate:
    """Work out one library and one encoder."""
    per_gpu = config.gpu_teraflops * TERA * config.gpu_utilisation / (2 * tower.gmacs * GIGA)
    nodes = config.gpu_nodes + config.cpu_nodes
    bits = 8000 * config.image_kilobytes
    rates = {
        "encoding": config.gpu_nodes * per_gpu,
        "decoding": nodes * config.cpus_per_node * config.decoded_per_cpu,
        "network": nodes * config.network_gigabits * GIGA / bits,
    }
    hours = images / min(rates.values()) / 3600
    per_hour = (
        config.gpu_nodes * config.gpu_price
        + config.cpu_nodes * config.cpu_price
        + config.head_price
    )
    lacking = rates["encoding"] / (config.cpus_per_node * config.decoded_per_cpu)
    sizes, stops = growth(config, tower, images)
    prefixes = min(rates.values()) / READS_PER_PREFIX
    if prefixes > 1:
        sizes["prefixes of the bucket that S3 must spread the reads over"] = f"{prefixes:,.0f}"
    return Estimate(
        tower=tower,
        images=images,
        rates=rates,
        hours=hours,
        dollars=hours * per_hour + images / 1e6 * config.price_per_million_reads,
        cpu_nodes_for_balance=max(0.0, lacking - config.gpu_nodes),
        sizes=sizes,
        stops=stops,
    )


def growth(config: Config, tower: Tower, images: int) -> tuple[dict[str, str], list[str]]:
    """Return what grows with the images, and which of it is beyond what the design is for."""
    creators = images / config.images_per_creator
    buckets = max(4, round(images / ROWS_PER_BUCKET))
    chunks, parts = images / MAX_CHUNK, max(images / MAX_PART, buckets)
    driver = config.driver_gigabytes + images * config.driver_bytes_per_image / GIGA
    driver += chunks * config.driver_kilobytes_per_chunk / 1e6
    row = 4 * tower.dim + 2 * tower.features_dim + 250
    table_row = 4 * (config.same_dim + tower.dim) + 8 * config.adjectives + 600
    # Ids as Python strings, and each adjective's scores as float32.
    publishing = config.driver_gigabytes + creators * (100 + 4 * config.adjectives) / GIGA
    index = creators * config.same_dim / GIGA if creators >= INDEX_FROM_ROWS else 0
    cpus = config.cpus_per_node * config.cpu_nodes
    publishing_seconds = images * row / (config.published_megabytes_per_cpu * 1e6 * cpus)
    planning_seconds = images / (config.planned_per_cpu * cpus)
    sizes = {
        "creators": f"{creators:,.0f}",
        "buckets, and EMBEDDINGS files after a compaction": f"{buckets:,}",
        "EMBEDDINGS": f"{images * row / 1e12:,.2f} TB ({row / 1000:.1f} KB an image)",
        "staged part files, deleted as buckets settle": f"{parts:,.0f}",
        "tasks of one run, each with its objects in Ray": f"{chunks:,.0f}",
        "Ray's objects at once (two batches a decoder and encoder)": f"{_at_once(config):,.0f}",
        "memory of encode_images' driver": f"{driver:,.1f} GB",
        "memory of publish_creators' driver": f"{publishing:,.1f} GB",
        "planning, on the CPU nodes": f"{planning_seconds / 60:,.1f} minutes",
        "a full publish, on the CPU nodes": f"{publishing_seconds / 60:,.0f} minutes and its start",
        "table": f"{creators * table_row / GIGA:,.1f} GB, its vector index {index:,.1f} GB",
        "Lance fragments of a full publish (compacted by the next incremental one)": f"{buckets:,}",
        "snapshot of EMBEDDINGS (one JSON file)": f"{buckets * 700 / 1e6:,.1f} MB",
    }
    stops = []
    for what, used in (("encode_images", driver), ("publish_creators", publishing)):
        if used > STOPS_AT_HEAD_MEMORY * config.head_gigabytes:
            stops.append(
                f"{what}' driver needs {used:,.0f} GB where the head has {config.head_gigabytes:g}"
            )
    return sizes, stops


def _at_once(config: Config) -> float:
    nodes = config.gpu_nodes + config.cpu_nodes
    return 2 * (nodes * config.cpus_per_node + 2 * config.gpu_nodes)


def show(found: Estimate, config: Config) -> str:
    """Return an estimate for a person."""
    lines = [
        f"{found.images:,} images, {found.tower.name}, {config.gpu_nodes} GPU nodes and"
        f" {config.cpu_nodes} CPU nodes:",
        f"  {found.hours:,.1f} hours, ${found.dollars:,.0f}"
        f" (${found.dollars / found.images * 1e6:,.2f} per million images);"
        f" {found.limit} limits",
        *(
            f"    {part:<10}{rate:>10,.0f} images/s,"
            f" {min(found.rates.values()) / rate:>4.0%} in use"
            for part, rate in found.rates.items()
        ),
        f"    for decoding to keep up with the GPUs: {found.cpu_nodes_for_balance:,.0f} CPU nodes",
        *(f"  {what}: {size}" for what, size in found.sizes.items()),
        *(f"  STOPS: {stop}" for stop in found.stops),
    ]
    return "\n".join(lines) + "\n"


def main(config: Config) -> None:
    """Print all estimates."""
    estimates = [estimate(config, tower, images) for images in config.images for tower in TOWERS]
    sys.stdout.write("\n".join(show(one, config) for one in estimates))


if __name__ == "__main__":
    main(tyro.cli(Config))
