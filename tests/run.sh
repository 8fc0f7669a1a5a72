#!/usr/bin/env bash
# The tests:   bash tests/run.sh      Makes a virtual environment on first use; needs no network after that, and no GPU.
# Some tests:  bash tests/run.sh -k reward      With arguments of pytest one process runs them; each needs 4 s to start.
set -euo pipefail
cd "$(dirname "$0")/.."
. toy/environment.sh
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
[ $# -gt 0 ] || set -- --numprocesses=auto --maxprocesses=4 --dist=worksteal  # more would wait for the longest test
python -m pytest -q "$@" tests
