"""deploy/kubernetes: fields that exist, of the right types; and what keeps a cluster safe."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes.client
import pytest
import yaml

from tests.deploy.ray_resources import REQUIRED, RESOURCES

DEPLOY = Path(__file__).parents[2] / "deploy"
FOLDER = DEPLOY / "kubernetes"
FILES = sorted(path.name for path in FOLDER.glob("*.yaml"))
PLAIN = {"str": str, "bool": bool, "int": int, "float": float, "object": object}
CORE = {
    "CronJob": "V1CronJob",
    "ServiceAccount": "V1ServiceAccount",
    "NetworkPolicy": "V1NetworkPolicy",
    "Service": "V1Service",
    "StatefulSet": "V1StatefulSet",
}


def documents(name: str) -> list[dict[str, Any]]:
    return [found for found in yaml.safe_load_all((FOLDER / name).read_text()) if found]


def wrong(value: Any, kind: Any, where: str) -> Iterator[str]:
    """Yield what of a value is not as its kind says, each with its place."""
    if isinstance(kind, tuple):
        if value not in kind:
            yield f"{where}: {value!r} is none of {kind}"
    elif isinstance(kind, type):
        right = (int, float) if kind is float else kind
        if not isinstance(value, right) or (kind is not bool and isinstance(value, bool)):
            yield f"{where}: {value!r} is no {kind.__name__}"
    elif kind == "dict" or kind.startswith("Dict["):
        if not isinstance(value, dict):
            yield f"{where}: {value!r} is no map"
        elif match := re.fullmatch(r"Dict\[str, (.+)\]", kind):
            for key, one in value.items():
                yield from wrong(one, of_client(match[1]), f"{where}.{key}")
    elif kind == "list":
        if not isinstance(value, list):
            yield f"{where}: {value!r} is no list"
    elif kind.endswith("[]"):
        if not isinstance(value, list):
            yield f"{where}: {value!r} is no list"
        else:
            for index, one in enumerate(value):
                yield from wrong(one, kind.removesuffix("[]"), f"{where}[{index}]")
    else:
        yield from wrong_fields(value, kind.strip("{}"), where)


def wrong_fields(value: Any, name: str, where: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{where}: {value!r} is no {name}"
        return
    fields, required = fields_of(name)
    for key, one in value.items():
        if key not in fields:
            yield f"{where}.{key}: no such field of {name}"
        else:
            yield from wrong(one, fields[key], f"{where}.{key}")
    yield from (f"{where}: {key} is missing" for key in required if key not in value)


def fields_of(name: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    if name in RESOURCES:
        return RESOURCES[name], REQUIRED.get(name, ())
    model = getattr(kubernetes.client, name)
    names = model.attribute_map
    return {names[key]: of_client(kind) for key, kind in model.openapi_types.items()}, ()


def of_client(kind: str) -> Any:
    """Return a kind as the Kubernetes client writes it in ours."""
    if match := re.fullmatch(r"(?:List|list)\[(.+)\]", kind):
        inner = of_client(match[1])
        return f"{inner}[]" if isinstance(inner, str) else "list"
    return PLAIN.get(kind, kind)


@pytest.mark.parametrize("name", FILES)
def test_every_field_exists_and_is_of_its_type(name):
    for found in documents(name):
        kind = found["kind"]
        problems = list(wrong(found, f"{{{CORE.get(kind, kind)}}}", kind))
        assert problems == []


def test_a_field_that_does_not_exist_is_found():
    [cluster] = documents("raycluster.yaml")
    spec = cluster["spec"]
    spec["headGroupSpec"]["template"]["spec"]["containers"][0]["imagePullPolice"] = "Always"
    spec["workerGroupSpecs"][0]["maxReplica"] = 3
    spec["workerGroupSpecs"][1]["minReplicas"] = "3"
    spec["authOptions"]["mode"] = "password"
    problems = list(wrong(cluster, "{RayCluster}", "RayCluster"))
    assert [problem.split(":")[0].rsplit(".", 1)[-1] for problem in problems] == [
        *("mode", "imagePullPolice", "maxReplica", "minReplicas"),
    ]


def test_all_files_have_the_same_cluster_and_the_same_job():
    [cluster], [job], [scheduled] = (
        documents(f"{name}.yaml") for name in ("raycluster", "rayjob", "raycronjob")
    )
    assert job["spec"]["rayClusterSpec"] == cluster["spec"]
    assert scheduled["spec"]["jobTemplate"] == job["spec"]
    [submitting] = documents("cronjob.yaml")
    pod = submitting["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    flags = " ".join(pod["containers"][0]["args"]).replace("=", " ")
    assert flags == " ".join(job["spec"]["entrypoint"].split())


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every pod's spec, wherever it is in a file."""

    def within(value: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
        if isinstance(value, dict):
            if "containers" in value:
                yield where, value
            for key, one in value.items():
                yield from within(one, f"{where}.{key}")
        elif isinstance(value, list):
            for one in value:
                yield from within(one, where)

    for name in FILES:
        for found in documents(name):
            yield from within(found, f"{name}:{found['kind']}")


def test_no_pod_is_root_or_may_become_it_and_none_has_a_key():
    found = dict(pods())
    assert len(found) >= 4
    for where, pod in found.items():
        assert pod["securityContext"]["runAsNonRoot"] is True, where
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, where
            assert context["capabilities"]["drop"] == ["ALL"], where
            assert container["resources"]["requests"]["memory"], where
            assert container["resources"]["limits"]["memory"], where
            assert re.search(r":\d", container["image"]), f"{where}: {container['image']}"
            for variable in container.get("env", ()):
                assert not re.search("KEY|SECRET|PASSWORD|TOKEN", variable["name"]) or (
                    "secretKeyRef" in variable["valueFrom"]
                ), where


def test_the_dashboard_asks_for_a_token_and_is_no_one_else_s():
    [cluster] = documents("raycluster.yaml")
    assert cluster["spec"]["authOptions"] == {"mode": "token"}
    assert cluster["spec"]["headGroupSpec"]["serviceType"] == "ClusterIP"
    policy = next(d for d in documents("serviceaccount.yaml") if d["kind"] == "NetworkPolicy")
    from_anywhere = [rule for rule in policy["spec"]["ingress"] if not rule.get("from")]
    assert from_anywhere == []
    for rule in policy["spec"]["ingress"]:
        others = [source for source in rule["from"] if "namespaceSelector" in source]
        ports = [one["port"] for one in rule.get("ports", ())]
        assert not others or ports == [8080]


def test_workers_are_spot_and_the_head_is_not():
    [cluster] = documents("raycluster.yaml")
    head = cluster["spec"]["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert head["template"]["spec"]["nodeSelector"]["karpenter.sh/capacity-type"] == "on-demand"
    for group in cluster["spec"]["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        assert pod["nodeSelector"]["karpenter.sh/capacity-type"] == "spot"
        assert {t["key"] for t in pod["tolerations"]} >= {"spot"}
        assert group["minReplicas"] == 0
    gpus = [
        g["template"]["spec"]["containers"][0]["resources"]["limits"].get("nvidia.com/gpu")
        for g in cluster["spec"]["workerGroupSpecs"]
    ]
    assert gpus == [None, "1"]


def test_every_file_says_what_it_is_for():
    for name in FILES:
        text = (FOLDER / name).read_text()
        assert text.startswith("# "), name
        assert text.count("#") >= 3, name
