"""slurm.sh under stand-ins for Slurm and Ray: what starts where and in which order, the token, the exit code."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent.parent / "cluster/slurm.sh"

# Runs nothing but notes `NODE: COMMAND` and the rights of the token file. `ray start --block` blocks.
SRUN = """#!/usr/bin/env bash
while [[ $1 == -* ]]; do [[ $1 == -w ]] && { node=$2; shift; }; shift; done
[ "$1" = env ] && shift 3
echo "$node: $*" >> "$LOG"
case "$*" in
  "hostname --ip-address") echo "127.0.1.1 fe80::1 10.0.0.5" ;;
  "ray health-check"*) grep -q "n1: up" "$LOG"; exit ;;
  "ray start"*) stat -c %a "$RAY_AUTH_TOKEN_PATH" >> "$LOG.rights"; wc -c < "$RAY_AUTH_TOKEN_PATH" >> "$LOG.size"
    trap 'echo "$node: stopped" >> "$LOG"; exit 0' TERM; echo "$node: up" >> "$LOG"; while :; do sleep 0.05; done ;;
  "python cluster/submit.py"*)
    until [ "$(grep -c ': up' "$LOG")" = 3 ]; do sleep 0.05; done
    echo "all up" >> "$LOG"; [ -n "$HANG" ] && sleep 60; exit "$CODE" ;;
esac
"""
SCONTROL = '#!/usr/bin/env bash\n[ "$*" = "show hostnames n[1-3]" ] && printf "n1\\nn2\\nn3\\n"\n'


@pytest.fixture
def job(tmp_path: Path) -> dict[str, str]:
    """The environment of a batch job on three nodes."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "LOG": str(tmp_path / "log"),
        "SLURM_JOB_ID": "4242",
        "SLURM_JOB_NODELIST": "n[1-3]",
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_CPUS_PER_TASK": "16",
        "CODE": "1",
        "HANG": "",
    }


def test_head_workers_and_sweep_start_in_order_and_the_exit_code_is_the_sweeps(
    tmp_path: Path, job: dict[str, str]
) -> None:
    command = ["bash", str(SCRIPT), "run", "sweeps/demo.yaml", "--store", "/shared/demo"]
    done = subprocess.run(command, env=job, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 1, done.stderr
    log = (tmp_path / "log").read_text().splitlines()
    ray = "ray start --num-cpus=16 --disable-usage-stats --block"
    started = [line for line in log if "ray start" in line]
    assert started[0].startswith(f"n1: {ray} --head --node-ip-address=10.0.0.5 --port=24242")
    assert sorted(started[1:]) == [f"{n}: {ray} --address=10.0.0.5:24242" for n in ("n2", "n3")]
    submit = "n1: python cluster/submit.py --workers 2 run sweeps/demo.yaml --store /shared/demo"
    assert submit in log
    assert log.index("n1: ray health-check --address 10.0.0.5:24242") < log.index(started[1])
    assert {line for line in log if "stopped" in line} == {"n1: stopped", "n2: stopped", "n3: stopped"}
    assert set((tmp_path / "log.rights").read_text().split()) == {"600"}
    assert set((tmp_path / "log.size").read_text().split()) == {"64"}
    assert not list(tmp_path.glob(".raysweep-token*"))


def test_a_cancelled_job_leaves_no_ray_and_no_token(tmp_path: Path, job: dict[str, str]) -> None:
    child = subprocess.Popen(["bash", str(SCRIPT), "run"], env={**job, "HANG": "1"}, start_new_session=True)
    deadline, log = time.monotonic() + 200, tmp_path / "log"
    while not log.exists() or "all up" not in log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(child.pid, signal.SIGTERM)  # what scancel sends to all of a job's processes
    assert child.wait(timeout=200) == 143
    assert not list(tmp_path.glob(".raysweep-token*"))
    stopped = {line for line in log.read_text().splitlines() if "stopped" in line}
    assert stopped == {"n1: stopped", "n2: stopped", "n3: stopped"}


@pytest.mark.parametrize("number", [1, 4242, 9_999, 19_999, 123_456_789])
def test_ray_takes_the_port_of_every_job(number: int) -> None:
    from ray._private.parameter import RayParams

    (formula,) = re.findall(r"^port=\$\(\((.*?)\)\)", SCRIPT.read_text(), re.MULTILINE)
    port = eval(formula.replace("SLURM_JOB_ID", str(number)))
    asked = RayParams(gcs_server_port=port, ray_client_server_port=10001, min_worker_port=10002, max_worker_port=19999)
    asked.update_pre_selected_port()  # refuses what overlaps
