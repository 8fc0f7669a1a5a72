# Sourced by toy/run.sh and tests/run.sh. Provides a Python with the packages of requirements.txt: in the active virtual
# environment, or in .venv if none is active. An environment that has all packages is not changed.
recent() { # python: ends the script if it is too old
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "error: $1 is $("$1" --version 2>&1); the kit needs Python 3.11 or later, for example in an active environment" >&2
        exit 2
    }
}
if [ -z "${VIRTUAL_ENV:-}" ]; then
    [ -d .venv ] || { recent python3; python3 -m venv .venv; }
    . .venv/bin/activate
fi
recent python
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
