#!/usr/bin/env bash
# The tests:   bash tests/run.sh      Makes a virtual environment on first use; needs no network after that, and no GPU.
set -euo pipefail
cd "$(dirname "$0")/.."
. toy/environment.sh
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
python -m pytest -q "$@" tests
