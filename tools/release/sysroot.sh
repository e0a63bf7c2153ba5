#!/usr/bin/env bash
# Headers and libraries of glibc 2.27 in a folder of its own; prints the flags with which this machine's compilers build
# against them. The result runs on every Linux on x86-64 since 2018.
#   tools/release/sysroot.sh FOLDER
# Three packages of Ubuntu 18.04, by their hashes: its C library is the oldest that public mirrors still serve.
set -euo pipefail
folder=${1:?"usage: tools/release/sysroot.sh FOLDER"}
mirror=${DELTACONV_UBUNTU_MIRROR:-http://archive.ubuntu.com/ubuntu}
packages="
5b813d4512491cd8fb30b2eb9192349ee75ffe3c9f21ae136cc7b2429f70c3b2 pool/main/g/glibc/libc6_2.27-3ubuntu1.6_amd64.deb
96ae7d2cf38f0547ca3cccb3344c8802fdf5bcd71c4b6d9aed09558ac8cc87db pool/main/g/glibc/libc6-dev_2.27-3ubuntu1.6_amd64.deb
06d9f16644d3a1b2ab7dd01730e833d516b6f575d975855f496eea6463fef2f6 pool/main/l/linux/linux-libc-dev_4.15.0-213.224_amd64.deb
"

if [ ! -e "$folder" ]; then
  beside=$folder.new.$$
  trap 'rm -rf "$beside"' EXIT
  mkdir -p "$beside"
  while read -r hash path; do
    [ -n "$hash" ] || continue
    curl --fail --silent --show-error --location --retry 3 --output "$beside/package.deb" "$mirror/$path"
    echo "$hash  $beside/package.deb" | sha256sum --check --quiet
    dpkg-deb --extract "$beside/package.deb" "$beside"
  done <<< "$packages"
  rm "$beside/package.deb"
  # Links such as libdl.so -> /lib/x86_64-linux-gnu/libdl.so.2 would lead to this machine's library.
  find "$beside" -lname '/*' -print0 | while IFS= read -r -d '' link; do
    ln --symbolic --force --relative "$beside$(readlink "$link")" "$link"
  done
  # The compiler's own libstdc++ was configured for a newer glibc (2.30), whose functions it would call.
  cat > "$beside/usr/include/older_glibc.h" << 'HEADER'
#ifdef __cplusplus
#include <bits/c++config.h>
#undef _GLIBCXX_USE_PTHREAD_COND_CLOCKWAIT
#undef _GLIBCXX_USE_PTHREAD_MUTEX_CLOCKLOCK
#undef _GLIBCXX_USE_PTHREAD_RWLOCK_CLOCKLOCK
#endif
HEADER
  mv "$beside" "$folder"
fi
echo "--sysroot=$folder -B$folder/usr/lib/x86_64-linux-gnu -Wl,--allow-shlib-undefined -include $folder/usr/include/older_glibc.h"
