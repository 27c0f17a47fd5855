"""One version of Ray everywhere, locked packages that satisfy pyproject.toml."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "deploy" / "requirements.lock").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins() -> dict[str, str]:
    found = re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==(\S+) \\$", LOCK, re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


def test_every_direct_dependency_is_locked_in_its_range():
    locked = pins()
    for text in PROJECT["dependencies"]:
        wanted = Requirement(text)
        version = locked[canonicalize_name(wanted.name)]
        assert wanted.specifier.contains(Version(version)), f"{wanted}: {version}; run make lock"


def test_every_locked_package_has_hashes_and_no_address():
    entries = re.split(r"^(?=[a-zA-Z])", LOCK, flags=re.MULTILINE)[1:]
    assert len(entries) > 100
    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []
    assert not re.search(r"://|--index|--find-links", LOCK)


def test_ray_is_one_version_everywhere():
    version = pins()["ray"]
    told = {
        "cluster.yaml": re.findall(r"rayproject/ray:([\d.]+)", (ROOT / "cluster.yaml").read_text()),
        "Dockerfile": re.findall(r"^FROM rayproject/ray:([\d.]+)", read("Dockerfile"), re.M),
        **{
            name: re.findall(r'rayVersion: "([\d.]+)"', read(f"kubernetes/{name}"))
            for name in ("raycluster.yaml", "rayjob.yaml", "raycronjob.yaml")
        },
    }
    assert {name: set(found) for name, found in told.items()} == {name: {version} for name in told}


def read(name: str) -> str:
    return (ROOT / "deploy" / name).read_text()


@pytest.mark.parametrize("name", ["cluster.yaml", "deploy/kubernetes/raycluster.yaml"])
def test_what_is_to_be_changed_is_marked(name):
    text = (ROOT / name).read_text()
    for line in text.splitlines():
        if re.search(r"\b0{6,}\b|ami-0{8}|example\.com|CHANGE-", line):
            before = text[: text.index(line)].splitlines()[-4:]
            assert any("CHANGE" in one for one in [*before, line]), line
    assert yaml.safe_load(text)
