# Sourced by toy/run.sh and tests/run.sh: a Python with the packages of requirements.txt. An environment that has them is left alone.
if [ -z "${VIRTUAL_ENV:-}" ]; then
    [ -d .venv ] || python3 -m venv .venv
    . .venv/bin/activate
fi
python - 2>/dev/null <<'PYTHON' || {
from importlib.metadata import version
from packaging.requirements import Requirement

for line in open("requirements.txt"):
    if wanted := line.partition("#")[0].strip():
        package = Requirement(wanted)
        version(package.name) in package.specifier or exit(1)
PYTHON
    echo "installing the packages of requirements.txt with $(command -v python)"
    python -m pip install --quiet -r requirements.txt
}
