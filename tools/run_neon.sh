#!/usr/bin/env bash
# Cross-compile the C core and its tests for aarch64, run them under emulation for NEON and for the plain C kernels, and
# compare the output bits of NEON with those of each instruction set with fused multiply-adds that this machine has.
# Needs (Debian): gcc-aarch64-linux-gnu qemu-user python3, and cc for the comparison.
#   tools/run_neon.sh [DIRECTORY]     where objects go; default: a temporary one
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

missing=()
for tool in aarch64-linux-gnu-gcc qemu-aarch64 python3; do
    command -v "$tool" >/dev/null || missing+=("$tool")
done
if ((${#missing[@]})); then
    echo "missing: ${missing[*]} (Debian: apt-get install gcc-aarch64-linux-gnu qemu-user python3)" >&2
    exit 1
fi

directory="${1:-}"
if [[ -z "$directory" ]]; then
    directory=$(mktemp -d)
    trap 'rm -rf "$directory"' EXIT
fi
build=tests/c/core_build.py
emulated=(qemu-aarch64 -L /usr/aarch64-linux-gnu "$directory/aarch64/run_tests")

CC=aarch64-linux-gnu-gcc python3 "$build" aarch64 "$directory/aarch64"
"${emulated[@]}" neon foreign
"${emulated[@]}" generic foreign

digests() { grep -E '^(given|digest) ' || true; } # no line at all is caught below
"${emulated[@]}" neon digest | digests >"$directory/neon"
[[ -s "$directory/neon" ]]
echo "NEON:"
cat "$directory/neon"
if [[ $(uname -m) != x86_64 ]]; then
    echo "no x86-64 machine: nothing to compare NEON with"
    exit 0
fi
python3 "$build" x86_64 "$directory/x86_64"
for isa in avx2 avx512; do
    if grep -q "^flags.*\b${isa}f\?\b" /proc/cpuinfo; then
        "$directory/x86_64/run_tests" "$isa" digest | digests | diff "$directory/neon" -
        echo "NEON and $isa: the same bits"
    fi
done
