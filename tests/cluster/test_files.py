"""The cluster files: valid by Ray's own schema, pinned, and past the traps that Ray lays."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parent.parent.parent
CLUSTER = ROOT / "cluster"
LAUNCHED = ("onprem", "aws", "gcp")
PINNED = dict(re.findall(r"^(\w+)==([\w.]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))


def load(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CLUSTER / f"{name}.yaml").read_text())
    return found


@pytest.mark.parametrize("name", LAUNCHED)
def test_rays_own_schema_takes_the_file_and_would_refuse_a_slip(name: str) -> None:
    config = load(name)
    validate_config(prepare_config(config))
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config({**config, "idle_timeout": 5}))


@pytest.mark.parametrize("name", LAUNCHED)
def test_traps_of_the_launcher_are_handled(name: str) -> None:
    config = load(name)
    for kind in ("head", "worker"):
        stop, start = config[f"{kind}_start_ray_commands"]
        assert stop == "ray stop"  # `ray down` may leave a worker's Ray behind
        assert start.startswith("unset OMP_NUM_THREADS;")  # the launcher exports 1
        assert "export RAY_AUTH_MODE=token" in start
        assert start.index("RAY_AUTH_MODE=token") < start.index("ray start")
        assert "0.0.0.0" not in start  # the dashboard stays on loopback
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert config["setup_commands"] == ["bash ~/raysweep/cluster/setup.sh"]
    v1 = "RAY_enable_autoscaler_v2=0" in config["head_start_ray_commands"][1]
    assert v1 == (config["provider"]["type"] == "local")  # v2 leaves out a worker of a `local` cluster


@pytest.mark.parametrize("name", LAUNCHED)
def test_what_the_package_is_installed_from_is_synced(name: str) -> None:
    mounts = {there: here for there, here in load(name)["file_mounts"].items() if there.startswith("~/raysweep/")}
    assert {"pyproject.toml", "README.md", "constraints.txt", "raysweep", "cluster", "sweeps"} == set(mounts.values())
    for there, here in mounts.items():
        assert there == f"~/raysweep/{here}"
        assert (ROOT / here).exists()
    setup = (CLUSTER / "setup.sh").read_text()
    assert '-c "$project/constraints.txt" -e "$project"' in setup
    for line in re.findall(r"^(?:COPY[^\n]*)$", (CLUSTER / "Dockerfile").read_text(), re.MULTILINE):
        for source in line.split()[2:-1]:
            assert (ROOT / source).exists()


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_clouds_have_spot_workers_of_several_gpus_an_idle_timeout_and_a_pinned_image(name: str) -> None:
    config = load(name)
    types = config["available_node_types"]
    workers = {k: v for k, v in types.items() if k != config["head_node_type"]}
    assert len({json.dumps(w["node_config"], sort_keys=True) for w in workers.values()}) == len(workers) >= 3
    for worker in workers.values():
        market = worker["node_config"].get("InstanceMarketOptions"), worker["node_config"].get("scheduling")
        assert market == ({"MarketType": "spot"}, None) or {"preemptible": True} in market[1]
        assert 0 <= worker["min_workers"] <= worker["max_workers"] <= config["max_workers"]
    head = types[config["head_node_type"]]["node_config"]
    assert not ({"InstanceMarketOptions", "scheduling"} & set(head))  # the driver must not be taken away
    assert config["idle_timeout_minutes"] > 0
    assert re.fullmatch(rf"rayproject/ray:{PINNED['ray']}-py311-gpu", config["docker"]["image"])
    assert "IamInstanceProfile" in head or "serviceAccounts" in head


# Required by the CRDs of KubeRay 1.5: ray-operator/apis/ray/v1/{rayjob,raycluster}_types.go (fields without omitempty),
# and by Kubernetes' PodSpec and Container.
REQUIRED = {
    "": ("apiVersion", "kind", "metadata", "spec"),
    "spec.rayClusterSpec": ("headGroupSpec",),
    "spec.rayClusterSpec.headGroupSpec": ("rayStartParams", "template"),
    "spec.rayClusterSpec.workerGroupSpecs.*": (
        *("groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"),
    ),
    "spec.rayClusterSpec.headGroupSpec.template": ("spec",),
    "spec.rayClusterSpec.workerGroupSpecs.*.template": ("spec",),
    "spec.rayClusterSpec.headGroupSpec.template.spec": ("containers",),
    "spec.rayClusterSpec.workerGroupSpecs.*.template.spec": ("containers",),
    "spec.rayClusterSpec.headGroupSpec.template.spec.containers.*": ("name", "image"),
    "spec.rayClusterSpec.workerGroupSpecs.*.template.spec.containers.*": ("name", "image"),
}


def at(tree: Any, path: str) -> list[Mapping[str, Any]]:
    found = [tree]
    for part in filter(None, path.split(".")):
        found = [x for node in found for x in (node if part == "*" else [node[part]])]
    return found


def test_the_rayjob_has_what_its_crd_requires() -> None:
    job = load("kuberay")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    for path, fields in REQUIRED.items():
        nodes = at(job, path)
        assert nodes
        for node in nodes:
            assert set(fields) <= set(node), path
    spec = job["spec"]["rayClusterSpec"]
    assert spec["rayVersion"] == PINNED["ray"]
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        for value in group["rayStartParams"].values():
            assert isinstance(value, str)  # the CRD's map holds strings
    (workers,) = spec["workerGroupSpecs"]
    assert f"--workers {workers['minReplicas']} " in job["spec"]["entrypoint"]
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]


def test_images_and_pins_agree() -> None:
    docker = (CLUSTER / "Dockerfile").read_text()
    assert f"FROM rayproject/ray:{PINNED['ray']}-py311-gpu" in docker
    torch = re.search(r"^TORCH\s*\?= ([\d.]+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert torch
    assert f"torch=={torch[1]} " in docker
    assert f"torch==${{TORCH:-{torch[1]}}}" in (CLUSTER / "setup.sh").read_text()


def test_no_file_holds_a_secret() -> None:
    for path in filter(Path.is_file, CLUSTER.iterdir()):
        text = path.read_text()
        for pattern in (r"AKIA[0-9A-Z]{16}", r"(?i)secret_access_key\s*[:=]\s*\S", r"PRIVATE KEY", r"\b[0-9a-f]{64}\b"):
            assert not re.search(pattern, text), f"{path.name}: {pattern}"
        assert not re.search(r"(s3|gs)://[^/\s]*:[^/\s]*@", text), path.name  # keys in a URI


@pytest.mark.parametrize("path", sorted(CLUSTER.glob("*.sh")), ids=lambda p: p.name)
def test_scripts_parse(path: Path) -> None:
    done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert path.read_text().splitlines()[0] == "#!/usr/bin/env bash"


def test_the_readme_names_every_port_and_links_to_what_exists() -> None:
    readme = (CLUSTER / "README.md").read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", readme):
        assert (CLUSTER / target).exists(), target
    for name in LAUNCHED:
        for kind in ("head", "worker"):
            for port in re.findall(r"-port=(\d+)", load(name)[f"{kind}_start_ray_commands"][1]):
                assert port in readme or (8076 <= int(port) <= 8081 and "| 8076-8081 |" in readme)
