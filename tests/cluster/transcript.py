"""`ray up`, `ray submit`, `ray down` on a head and two workers, as it looks on the client's terminal.

    python tests/cluster/transcript.py            # prints it
    python tests/cluster/transcript.py > docs/submit.txt

Makes four hosts on this machine (Linux, root; see hosts.py) and takes cluster/onprem.yaml, with these hosts' addresses.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from datetime import date
from importlib.metadata import version
from pathlib import Path

from hosts import ROOT, SHARED, call, make_hosts, missing
from onprem import TOKEN, Cluster, adapt, clean

TERMINAL = "--log-style pretty --log-color false"  # as on a terminal, which this is not
_COMMANDS = (
    ("ray up -y {file}", TERMINAL),
    ("ray submit {file} cluster/submit.py -- run sweeps/demo.yaml --preset smoke --store {shared}/demo", TERMINAL),
    ("ray down -y {file}", TERMINAL),
)
# rsync's lists and the launcher's warnings.
_NOISE = re.compile(
    r"refers to a file|ensure this mount updates|provider configuration$|experience issues with the cloud|Fetched IP|"
    r"network_util|To switch back to v1|Stopped only|forcefully terminate|ClusterState:|NodeProvider:|known hosts\.$|"
    r"Shared connection|^sending incremental|^sent \d|^total size|^\s*$|load average|[Uu]sage stats|usage_lib|"
    r"^oracle: audit$|^[\w./]+(/|\.py|\.sh|\.md|\.yaml|\.txt|\.toml|\.typed|file|_token)$"
)


def main() -> None:
    """Print the transcript; exit 1 if a command failed."""
    if reason := missing():
        sys.exit(f"no cluster can be made here: {reason}")
    with tempfile.TemporaryDirectory() as folder, make_hosts(Path(folder) / "hosts") as network:
        cluster, failed = Cluster(network, adapt(network)), False
        cluster.client(TOKEN)
        ran = f"{date.today()}, Ray {version('ray')}, {os.cpu_count()} cores"
        print(f"# python tests/cluster/transcript.py, {ran}: a head and two workers in namespaces")
        print("# of one machine. Without rsync's lists and Ray's hints.\n")
        for command, options in _COMMANDS:
            typed = command.format(file=cluster.file, shared=SHARED)
            verb, rest = typed.split(" ", 2)[1:]
            done = cluster.client(f"ray {verb} {options} {rest}", timeout=600)
            failed |= bool(done.returncode)
            print(f"$ {tidy(typed, cluster)}\n{tidy(done.stdout, cluster)}\n")
            if done.returncode:
                print(f"(exit code {done.returncode})")
        print(
            f"$ ls {SHARED}/demo        # on any host\n{call(network, 'worker1', f'ls {SHARED}/demo').stdout}", end=""
        )
    sys.exit(failed)


def tidy(output: str, cluster: Cluster) -> str:
    """Without this machine's paths, and without the launcher's own commands and warnings."""
    text = clean(output).replace(str(cluster.file), "cluster/onprem.yaml").replace(f"{cluster.network.scratch}/", "")
    text = text.replace(f"{ROOT}/", "").replace(str(Path(sys.prefix)), ".venv")
    text = re.sub(r"\n( *Next steps|-{20,}\nNote: The output above).*?(?=\n *New status|\Z)", "", text, flags=re.DOTALL)
    lines = [line.rstrip() for line in text.splitlines() if not _NOISE.search(line)]
    after = [*lines[1:], ""]
    return "\n".join(one for one, two in zip(lines, after, strict=True) if not (live(one) and live(two)))


def live(line: str) -> bool:
    """Whether a line is one state of the line that a terminal shows in place."""
    return line.startswith(("starting", "oracle: starting", "oracle: epoch", "cells "))


if __name__ == "__main__":
    main()
