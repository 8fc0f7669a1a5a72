# Sourced by toy/run.sh and tests/run.sh: a Python that can import what the kit needs. An environment that can is left alone.
if [ -z "${VIRTUAL_ENV:-}" ]; then
    [ -d .venv ] || python3 -m venv .venv
    . .venv/bin/activate
fi
python -c "import torch, transformers, datasets, sympy, peft, tqdm, matplotlib, pytest" 2>/dev/null || {
    echo "installing the packages of requirements.txt with $(command -v python)"
    python -m pip install --quiet -r requirements.txt
}
