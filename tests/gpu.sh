#!/usr/bin/env bash
# The first ten minutes on a GPU:   bash tests/gpu.sh          `bash tests/gpu.sh cpu` tries the same with tiny models on a CPU.
# Uses the active virtual environment, or .venv, and installs nothing: what is missing is skipped.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -n "${VIRTUAL_ENV:-}" ] || [ ! -d .venv ] || . .venv/bin/activate
export HF_HUB_OFFLINE=1
exec python3 tests/gpu.py "$@"
