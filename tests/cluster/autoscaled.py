"""A head whose autoscaler, Ray's own, starts nodes on this machine when they are asked for."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.cluster import head as heads
from tests.cluster.head import Head

STORE_BYTES = 10**8


@contextmanager
def running(
    folder: Path, node_types: Mapping[str, tuple[Mapping[str, float], int]], **environment: str
) -> Iterator[Head]:
    """Run a head without CPUs while the block runs; its nodes are killed with it.

    Args:
        folder: For its log and its configuration.
        node_types: Name to the resources of a node, and how many there may be; none at first.
        environment: Of all processes.
    """
    gcs = heads.free_port()
    path = folder / "autoscaler.json"
    path.write_text(json.dumps(_config(gcs, node_types)))
    with heads.running(
        folder,
        *("--num-cpus=0", f"--autoscaling-config={path}"),
        **{"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", **environment},
        gcs=gcs,
        jobs=False,
    ) as head:
        yield head


def _config(gcs: int, node_types: Mapping[str, tuple[Mapping[str, float], int]]) -> dict[str, Any]:
    workers = {
        name: {
            "resources": {**resources, "object_store_memory": STORE_BYTES},
            "node_config": {},
            "min_workers": 0,
            "max_workers": most,
        }
        for name, (resources, most) in node_types.items()
    }
    return {
        "cluster_name": "autoscaled",
        "max_workers": sum(most for _, most in node_types.values()),
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 5,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": f"127.0.0.1:{gcs}",
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "available_node_types": {
            "ray.head.default": {"resources": {}, "node_config": {}, "max_workers": 0},
            **workers,
        },
        "head_node_type": "ray.head.default",
        **{name: {} for name in ("auth", "docker", "file_mounts")},
        "file_mounts_sync_continuously": False,
        **{name: [] for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
        **{name: [] for name in ("initialization_commands", "setup_commands")},
        **{name: [] for name in ("head_setup_commands", "worker_setup_commands")},
        **{name: [] for name in ("head_start_ray_commands", "worker_start_ray_commands")},
    }
