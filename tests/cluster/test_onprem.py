"""A real cluster by `ray up`: a client, a head and two workers with nothing in common but a network and a folder."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from hosts import ADDRESS, ROOT, SHARED, boot, call, command_on, environment, missing, pull_plug
from onprem import WORKERS, Cluster, encoded, ray_cluster

pytestmark = [
    pytest.mark.skipif(bool(missing()), reason=missing()),
    pytest.mark.timeout(1200),  # minutes on a quiet machine; the first test also waits for the cluster
]
S3 = f"http://{ADDRESS['client']}:5000"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with ray_cluster(tmp_path_factory.mktemp("hosts") / "all") as found:
        yield found


@pytest.fixture(scope="module")
def bucket(cluster: Cluster) -> Iterator[str]:
    """moto's S3 on the client, reached over the network by all hosts; the URI of a bucket."""
    serve = "exec python -m moto.server -H 0.0.0.0 -p 5000"
    server = subprocess.Popen(
        command_on(cluster.network, "client", serve),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    make = f"import urllib.request as u; u.urlopen(u.Request('{S3}/bucket', method='PUT'))"
    deadline = time.monotonic() + 200
    while cluster.client(f'python -c "{make}"').returncode:
        assert server.poll() is None
        assert time.monotonic() < deadline
    yield f"s3://bucket/{{}}?endpoint_override={ADDRESS['client']}:5000&scheme=http&region=us-east-1"
    server.kill()
    server.wait(timeout=200)


def rows_of(cluster: Cluster, store: str) -> pl.DataFrame:
    return pl.read_parquet(cluster.network.shared / store / "cells.parquet")


def test_a_sweep_runs_on_every_host_and_its_findings_reach_the_client(cluster: Cluster) -> None:
    done = cluster.submit(f"run mine/where.yaml --set hosts=3 --store {SHARED}/where")
    assert done.returncode == 0, done.stdout
    assert "submit: 2 of 2 workers joined" in done.stdout
    assert "where: 12 ok of 12 cells" in done.stdout
    assert re.search(r"power: loss = A size\^-alpha.* alpha = 0\.5", done.stdout)
    assert "submit: raysweep ended with exit code 0" in done.stdout
    rows = rows_of(cluster, "where")
    assert rows.height == rows["cell"].n_unique() == 12
    assert set(rows["host"]) == {"head", *WORKERS}


def test_an_exit_code_and_the_reason_reach_the_client(cluster: Cluster) -> None:
    done = cluster.submit(f"run mine/where.yaml --set bad=30 --set seed=0 --store {SHARED}/bad --executor inline")
    assert done.returncode == 1  # `ray submit` knows no other
    assert "3 ok, 1 failed of 4 cells" in done.stdout
    assert "submit: raysweep ended with exit code 1" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("run mine/where.yaml --store results/where", "store /root/raysweep/results/where: every worker must see"),
        (
            "run mine/where.yaml --set 'size={geom: [10, 300, 4]}'",
            r"'size={geom:' went unquoted through the head's shell",
        ),
    ],
    ids=["a folder of the head's alone", "quotes that are lost"],
)
def test_what_cannot_work_on_a_cluster_is_refused_with_its_reason(
    arguments: str, reason: str, cluster: Cluster
) -> None:
    done = cluster.submit(arguments)
    assert done.returncode == 1
    assert reason in " ".join(done.stdout.split())
    assert "plan:" not in done.stdout  # nothing was spent


def test_a_store_on_s3_and_arguments_that_a_shell_would_break(cluster: Cluster, bucket: str) -> None:
    store = bucket.format("where")
    line = ("run", "mine/where.yaml", "--set", "size={geom: [10, 1000, 3]}", "--store", store)
    done = cluster.submit(encoded(*line))
    assert done.returncode == 0, done.stdout
    assert "where: 9 ok of 9 cells" in done.stdout
    seen = cluster.client(f"python -m raysweep status '{store}' --json")  # from a machine that is not in the cluster
    assert seen.returncode == 0, seen.stdout
    found = json.loads(seen.stdout)
    assert (found["cells"]["ok"], found["unreadable"]) == (9, [])


def test_nobody_gets_in_without_the_token(cluster: Cluster) -> None:
    look = f"ray status --address {ADDRESS['head']}:6379"
    assert "Active:" in cluster.client(look).stdout
    for mode in ("RAY_AUTH_MODE=disabled", f"RAY_AUTH_TOKEN={'0' * 64}"):
        refused = cluster.client(f"{mode} {look}")
        assert refused.returncode == 1
        assert "AuthenticationError" in refused.stdout
    listening = call(cluster.network, "head", "ss -ltnH").stdout
    dashboard = [line.split()[3] for line in listening.splitlines() if ":8265 " in line]
    assert dashboard == ["127.0.0.1:8265"]


def epochs(curve: Path) -> list[dict[str, float]]:
    return json.loads(curve.read_text()) if curve.is_file() else []


def test_an_oracle_survives_a_host_whose_plug_is_pulled(cluster: Cluster) -> None:
    """Trained over three hosts by gloo; one goes away for good; training goes on from its checkpoint, not anew."""
    network, folder = cluster.network, cluster.network.shared / "world"
    driver = subprocess.Popen(
        command_on(
            network,
            "client",
            f"cd {ROOT}; export RAY_AUTH_MODE=token; "
            f"exec ray submit {cluster.file} cluster/submit.py -- run mine/world.yaml --store {SHARED}/world",
        ),
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        deadline = time.monotonic() + 400
        while not (curves := list(folder.glob("oracle/*/curve.json"))) or len(epochs(curves[0])) < 6:
            assert driver.poll() is None, driver.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        at_work = [name for name in ("head", *WORKERS) if "RayTrainWorker" in call(network, name, "ps ax").stdout]
        pull_plug(network, "worker2")
        output, _ = driver.communicate(timeout=600)
    finally:
        driver.kill()
        if "worker2" not in network.first:
            boot(network, "worker2")  # the autoscaler takes it in again, by ssh
    assert at_work == ["head", *WORKERS]
    assert driver.returncode == 0, output
    assert "world: 16 ok of 16 cells" in output
    curve = epochs(curves[0])
    assert [p["epoch"] for p in curve] == list(range(1, 19))
    starts = sorted({int(p["start"]) for p in curve})
    assert starts[0] == 0
    assert len(starts) > 1  # some of it was trained by a second group of workers,
    assert starts[1] >= 2  # which went on from a checkpoint
    assert curve[-1]["nll"] < curve[0]["nll"] - 10
    rows = rows_of(cluster, "world")
    assert (rows.height, rows["world_sha"].n_unique()) == (16, 1)
