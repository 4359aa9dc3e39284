#!/usr/bin/env bash
# Run by `ray up` on every machine: installs raysweep from the synced checkout and puts it on the PATH of login shells.
# A second run takes seconds. A machine gets a virtual environment; in a container, the system's Python is used.
#   TORCH=2.12.0, PYTHON=python3.12 and PIP_ARGS="--index-url ..." as in the Makefile
set -euo pipefail
project=$(cd "$(dirname "$0")/.." && pwd)
if [ -f /.dockerenv ]; then
  bin=$(dirname "$(command -v python)")
else
  [ -x ~/.raysweep/bin/python ] || "${PYTHON:-python3}" -m venv ~/.raysweep
  bin=~/.raysweep/bin
fi
# torch first, with plain pip, as in the Makefile; pinned versions, so that all machines have the same Ray.
"$bin/python" -m pip install --quiet ${PIP_ARGS:-} "torch==${TORCH:-2.13.0}"
"$bin/python" -m pip install --quiet ${PIP_ARGS:-} -c "$project/constraints.txt" -e "$project"
mark='# raysweep on a cluster'
grep -qF "$mark" ~/.bashrc 2>/dev/null ||
  echo "export PATH=$bin:\$PATH RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0  $mark" >> ~/.bashrc
