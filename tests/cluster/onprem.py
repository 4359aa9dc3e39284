"""`ray up`, `ray submit` and `ray down` with cluster/onprem.yaml on the hosts of hosts.py, as a user types them."""

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml
from hosts import ADDRESS, HERE, ROOT, Network, call, make_hosts

WORKERS = ("worker1", "worker2")
# Once on the client: the token that the cluster file brings to all hosts, and made-up rights to a store.
TOKEN = (
    "ray get-auth-token --generate > /dev/null && mkdir -p ~/.aws && "
    "printf '[default]\\naws_access_key_id = test\\naws_secret_access_key = test\\n' > ~/.aws/credentials"
)
# A host whose plug is pulled answers no more: Ray believes it after 5 x (1 + 5) s instead of 5 x (3 + 10).
_IMPATIENT = "RAY_health_check_period_ms=1000 RAY_health_check_timeout_ms=5000"
_SMALL = " --num-cpus=1 --object-store-memory=100000000"
_NOISE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class Cluster:
    """Hosts with Ray on head and workers; commands are given on the client."""

    network: Network
    file: Path

    def client(self, command: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """A shell command on the client, in the root of the checkout."""
        return call(self.network, "client", f"cd {ROOT} && export RAY_AUTH_MODE=token && {command}", timeout)

    def submit(self, arguments: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """`ray submit cluster.yaml cluster/submit.py -- ARGUMENTS`, with a clean output."""
        done = self.client(f"ray submit {self.file} cluster/submit.py -- {arguments}", timeout)
        return subprocess.CompletedProcess(done.args, done.returncode, clean(done.stdout))


def encoded(*arguments: str) -> str:
    """Arguments as README.md says to write them when they hold more than plain words."""
    return f"$(python cluster/submit.py encode {' '.join(map(shlex.quote, arguments))})"


def clean(output: str) -> str:
    """What a terminal shows in the end: no colours, of a line written over and over its last state."""
    lines = [line.rstrip("\r").split("\r")[-1] for line in _NOISE.sub("", output).split("\n")]
    return "\n".join(lines)


def adapt(network: Network) -> Path:
    """cluster/onprem.yaml with these hosts' addresses, small nodes, and what is installed here instead of pip's."""
    config = yaml.safe_load((ROOT / "cluster/onprem.yaml").read_text())
    config["provider"] |= {"head_ip": ADDRESS["head"], "worker_ips": [ADDRESS[name] for name in WORKERS]}
    config["auth"] = {"ssh_user": "root", "ssh_private_key": str(network.key)}
    config["file_mounts"] |= {"~/raysweep/mine": str(HERE / "mine"), "~/.aws": "~/.aws"}
    exports = "export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 PYTHONPATH=~/raysweep"
    config["setup_commands"] = [f"grep -q RAY_AUTH_MODE ~/.bashrc || echo '{exports}' >> ~/.bashrc"]
    for kind in ("head", "worker"):
        start = config[f"{kind}_start_ray_commands"]
        # Ray's node kills itself when its agents need more than 15 s to start: on a busy machine they go first.
        start[-1] = start[-1].replace("ray start", f"{_IMPATIENT} nice -n -10 ray start") + _SMALL
    file = network.scratch / "onprem.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


@contextlib.contextmanager
def ray_cluster(scratch: Path) -> Iterator[Cluster]:
    """Up at the start, down at the end; both must succeed."""
    with make_hosts(scratch) as network:
        cluster = Cluster(network, adapt(network))
        made = cluster.client(f"{TOKEN} && ray up -y {cluster.file}")
        if made.returncode:
            raise RuntimeError(f"ray up failed: {made.stdout}")
        yield cluster
        gone = cluster.client(f"ray down -y {cluster.file}")
        left = call(network, "head", "pgrep -l raylet || true").stdout
        if gone.returncode or left:
            raise RuntimeError(f"ray down failed, {left!r} is left on the head: {gone.stdout}")
