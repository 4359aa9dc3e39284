"""Four separate hosts on one Linux machine: client, head, worker1, worker2.

Each has its own network, process, mount, hostname and IPC namespace, its own /tmp, /dev/shm and home, and an sshd. They
share one folder, /mnt/shared, and a network of their own, 10.99.0.0/24. Nothing has a name outside: any number of such
networks live side by side, and all of it is gone when the process that made it is, however it dies.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
NAMES = ("client", "head", "worker1", "worker2")
SHARED = "/mnt/shared"
ADDRESS = {name: f"10.99.0.{i}" for i, name in enumerate(NAMES, 1)}
_TOOLS = ("sshd", "ssh-keygen", "rsync", "ip", "unshare", "nsenter", "setpriv")
_SSHD = """\
Port 22
HostKey {scratch}/hostkey
AuthorizedKeysFile {scratch}/id.pub
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
MaxStartups 100
MaxSessions 100
PidFile none
"""


def missing() -> str:
    """Why there can be no hosts here, or ""."""
    if sys.platform != "linux":
        return "hosts are made of Linux namespaces"
    if os.geteuid() != 0:
        return "making hosts needs root"
    search = os.environ["PATH"] + ":/usr/sbin:/sbin"
    if lacks := [tool for tool in _TOOLS if not shutil.which(tool, path=search)]:
        return f"making hosts needs {', '.join(lacks)} (apt-get install openssh-server rsync iproute2)"
    tried = subprocess.run(
        ["unshare", "--net", "--pid", "--mount", "--uts", "--ipc", "--fork", "mount", "-t", "tmpfs", "tmpfs", "/mnt"],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"namespaces are not allowed here: {tried.stderr.strip()}" if tried.returncode else ""


@dataclass(frozen=True)
class Network:
    """Hosts by name.

    Attributes:
        scratch: Keys, logs and the shared folder.
        switch: A process whose network namespace holds the bridge.
        first: The first process of each host that is up: killing it is pulling the host's plug.
    """

    scratch: Path
    switch: subprocess.Popen[bytes]
    first: dict[str, int] = field(default_factory=dict)
    outer: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def key(self) -> Path:
        """The private key that every host lets in as root."""
        return self.scratch / "id"

    @property
    def shared(self) -> Path:
        """What the hosts see as /mnt/shared."""
        return self.scratch / "shared"


def environment() -> dict[str, str]:
    """What a command on a host finds: nothing of this process's but where Python is."""
    path = f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {"HOME": "/root", "PATH": path, "TERM": "dumb", "LANG": "C.UTF-8"}


def boot(network: Network, name: str) -> None:
    """Start a host and wait until its sshd answers."""
    keep = {sys.prefix, sys.base_prefix, str(ROOT)}
    with open(network.scratch / f"{name}.log", "ab") as log:
        network.outer[name] = subprocess.Popen(
            [
                # Whoever dies takes those below along: this process its hosts, a host's first process all others.
                *("setpriv", "--pdeathsig", "KILL", "unshare", "--kill-child"),
                *("--net", "--pid", "--mount", "--uts", "--ipc", "--fork", "--mount-proc"),
                *("bash", str(HERE / "host.sh"), name, str(network.scratch), *sorted(keep)),
            ],
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    network.first[name] = first = _child(network.outer[name])
    port, address = f"{name}-{first}"[-15:], f"{ADDRESS[name]}/24"
    plug = ["ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(first)]
    _inside(network.switch.pid, *plug)
    _inside(network.switch.pid, "ip", "link", "set", port, "master", "br0", "up")
    _inside(first, "ip", "link", "set", "lo", "up")
    _inside(first, "ip", "addr", "add", address, "dev", "eth0")
    _inside(first, "ip", "link", "set", "eth0", "up")
    deadline = time.monotonic() + 200
    answers = ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/22"]
    while subprocess.run(["nsenter", "-t", str(first), "-n", *answers], capture_output=True, check=False).returncode:
        if time.monotonic() > deadline or network.outer[name].poll() is not None:
            raise RuntimeError(f"{name} does not come up: {(network.scratch / f'{name}.log').read_text()}")
        time.sleep(0.1)


def pull_plug(network: Network, name: str) -> None:
    """Kill every process of a host at once, sshd included."""
    os.kill(network.first.pop(name), 9)
    network.outer.pop(name).wait(timeout=200)


def command_on(network: Network, name: str, command: str) -> list[str]:
    """The command line that runs a command in a login shell of a host."""
    return ["nsenter", "-t", str(network.first[name]), "--all", "--wd=/root", "bash", "-lc", command]


def call(network: Network, name: str, command: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run a command on a host; its output is stdout and stderr together."""
    return subprocess.run(
        command_on(network, name, command),
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=timeout,
        check=False,
    )


@contextlib.contextmanager
def make_hosts(scratch: Path) -> Iterator[Network]:
    """All hosts, up."""
    (scratch / "shared").mkdir(parents=True)
    for name in ("id", "hostkey"):
        _run("ssh-keygen", "-qt", "ed25519", "-N", "", "-f", str(scratch / name))
    (scratch / "sshd").write_text(_SSHD.format(scratch=scratch))
    lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in ADDRESS.items())]
    (scratch / "hosts").write_text("\n".join(lines) + "\n")
    switch = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"])
    network = Network(scratch, switch)
    try:
        _until_own_net(switch.pid)
        _inside(switch.pid, "ip", "link", "add", "br0", "type", "bridge")
        _inside(switch.pid, "ip", "link", "set", "br0", "up")
        for name in NAMES:
            boot(network, name)
        yield network
    finally:
        for name in list(network.first):
            pull_plug(network, name)
        for process in (*network.outer.values(), switch):
            process.kill()
            process.wait(timeout=200)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


def _inside(pid: int, *command: str) -> None:
    _run("nsenter", "-t", str(pid), "-n", *command)


def _until_own_net(pid: int) -> None:
    deadline = time.monotonic() + 200
    while os.readlink(f"/proc/{pid}/ns/net") == os.readlink("/proc/self/ns/net"):
        if time.monotonic() > deadline:
            raise RuntimeError("a network namespace does not come up")
        time.sleep(0.02)


def _child(outer: subprocess.Popen[bytes]) -> int:
    """The first process in the new namespaces."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and outer.poll() is None:
        found = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()
        if found:
            return int(found[0])
        time.sleep(0.02)
    raise RuntimeError("a host's first process does not start")
