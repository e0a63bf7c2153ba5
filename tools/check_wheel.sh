#!/usr/bin/env bash
# One wheel, another torch: installs the wheel beside torch==$1 in an environment of its own and runs the kernel tests there.
#   tools/check_wheel.sh 2.14.1 [wheel]      (without a wheel, one is built first)
set -euo pipefail
torch_version=${1:?"usage: tools/check_wheel.sh TORCH_VERSION [WHEEL]"}
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

wheel=${2:-}
if [ -z "$wheel" ]; then
  python3 -m pip wheel --quiet --no-deps --wheel-dir "$work" "$root"
  wheel=$(echo "$work"/*.whl)
fi
echo "wheel: $(basename "$wheel")  sha256: $(sha256sum "$wheel" | cut -c1-16)"

python3 -m venv "$work/venv"
pip="$work/venv/bin/pip --quiet --disable-pip-version-check"
$pip install "torch==$torch_version"
$pip install --no-deps "$wheel"
$pip install $(grep -E '^(pytest|pytest-timeout|hypothesis|expecttest|setuptools)==' "$root/requirements.txt")

# A copy of the tests alone: the source tree must not be importable.
mkdir "$work/run"
cp -r "$root/tests/kernels" "$root/pyproject.toml" "$work/run/"
cd "$work/run"
"$work/venv/bin/python" - <<'PY'
import deltaconv_kernels as dk
import torch
print(f"torch {torch.__version__}, {dk.__file__}")
for name, status in dk.backends().items():
    print(f"  {name}: {status.reason or 'available'}")
PY
"$work/venv/bin/python" -m pytest -q kernels
