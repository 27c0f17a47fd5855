"""cluster.yaml as Ray's launcher takes it: its schema, its defaults, and AWS as moto plays it."""

import json
import re
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from moto import mock_aws
from ray.autoscaler._private.aws.config import bootstrap_aws
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]
POLICIES = ROOT / "deploy" / "aws"


@pytest.fixture
def config() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


@pytest.fixture
def aws(monkeypatch, tmp_path, config):
    """An AWS account with the profiles and the image that the file names."""
    monkeypatch.setenv("HOME", str(tmp_path))  # where Ray keeps the SSH key that it makes
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    (tmp_path / ".ssh").mkdir()
    with mock_aws():
        region = config["provider"]["region"]
        iam = boto3.client("iam", region)
        for name in ("motif-head", "motif-worker"):
            iam.create_instance_profile(InstanceProfileName=name)
        image = boto3.client("ec2", region).describe_images()["Images"][0]["ImageId"]
        for kind in config["available_node_types"].values():
            kind["node_config"]["ImageId"] = image
        yield boto3.resource("ec2", region)


def test_it_is_what_the_launcher_s_schema_says(config):
    validate_config(prepare_config(config))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda c: c.update(idle_timeout="5"),
        lambda c: c["provider"].update(use_internal_ips="yes"),
        lambda c: c["available_node_types"]["gpu"].update(spot=True),
        lambda c: c.update(head_node_type="nobody"),
        lambda c: c["docker"].update(images="x"),
    ],
)
def test_a_mistake_would_be_found(config, spoil):
    spoil(config)
    with pytest.raises(Exception, match=r".") as found:
        validate_config(prepare_config(config))
    assert type(found.value).__name__ in ("ValidationError", "ValueError")


def test_nodes_start_as_the_file_says(config, aws):
    whole = bootstrap_aws(prepare_config(config))
    provider = AWSNodeProvider(whole["provider"], whole["cluster_name"])
    for name, kind in whole["available_node_types"].items():
        tags = {"ray-node-kind": "head" if name == "head" else "worker"}
        provider.create_node(kind["node_config"], tags, 1)
    nodes = list(aws.instances.all())
    assert len(nodes) == 3
    for node in nodes:
        assert node.metadata_options["HttpTokens"] == "required"
        assert node.iam_instance_profile["Arn"].rsplit("/")[-1] in ("motif-head", "motif-worker")
        assert {"Key": "ray-cluster-name", "Value": "motif"} in node.tags
    kinds = {node.instance_type: node.instance_lifecycle for node in nodes}
    assert kinds == {"m7i.2xlarge": None, "c7i.4xlarge": None, "g6.4xlarge": "spot"}


def test_only_ssh_is_open_and_the_dashboard_is_on_the_head_alone(config, aws):
    whole = bootstrap_aws(prepare_config(config))
    groups = {
        group
        for kind in whole["available_node_types"].values()
        for group in kind["node_config"]["SecurityGroupIds"]
    }
    open_ports = set()
    for group in groups:
        for rule in aws.SecurityGroup(group).ip_permissions:
            if rule.get("IpRanges"):
                open_ports.add((rule["FromPort"], rule["ToPort"]))
            else:
                assert {pair["GroupId"] for pair in rule["UserIdGroupPairs"]} <= groups
    assert open_ports == {(22, 22)}
    assert whole["provider"]["use_internal_ips"] is True
    start = " ".join(whole["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in start
    assert "0.0.0.0" not in start


def test_jobs_find_their_modules_and_their_token(config):
    options = " ".join(config["docker"]["run_options"])
    assert "--env PYTHONPATH=lib" in options
    assert "--env RAY_AUTH_MODE=token" in options
    mounted = config["file_mounts"]
    assert "/home/ray/.ray/auth_token" in mounted
    [install] = config["setup_commands"]
    assert install.endswith("--require-hashes --requirement /home/ray/motif/requirements.lock")
    assert (ROOT / mounted["/home/ray/motif"] / "requirements.lock").is_file()
    assert config["available_node_types"]["head"]["resources"] == {"CPU": 0}


def policy(name: str) -> list[dict[str, Any]]:
    return json.loads((POLICIES / name).read_text())["Statement"]


@pytest.mark.parametrize("name", ["data-policy.json", "head-policy.json"])
def test_a_policy_is_one_and_allows_no_more_than_it_must(name, aws):
    boto3.client("iam").create_policy(
        PolicyName="tried", PolicyDocument=(POLICIES / name).read_text()
    )
    for statement in policy(name):
        if statement["Effect"] == "Deny":
            continue
        assert not [one for one in statement["Action"] if "*" in one], statement
        reading = all(re.search(":(Describe|List|Get)", one) for one in statement["Action"])
        assert statement["Resource"] != ["*"] or reading, statement


def test_images_are_read_and_never_written():
    for statement in policy("data-policy.json"):
        if statement["Effect"] == "Allow" and "images" in json.dumps(statement["Resource"]):
            assert set(statement["Action"]) <= {"s3:GetObject", "s3:ListBucket"}
