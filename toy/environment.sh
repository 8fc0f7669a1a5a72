# Sourced by toy/run.sh and tests/run.sh. Provides a Python with the packages of requirements.txt: in the active virtual
# environment, or in .venv if none is active. An environment that has all packages is not changed.
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
