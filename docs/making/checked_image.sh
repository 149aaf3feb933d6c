#!/usr/bin/env bash
# The steps of the Dockerfile in a fresh Debian root, for where there is no Docker:
#
#   bash docs/making/checked_image.sh FOLDER
#
# Needs root, debootstrap, the Debian mirror and the package index of this machine.
set -euo pipefail
folder=$1
repository=$(cd "$(dirname "$0")/../.." && pwd)
[ -e "$folder/bin" ] || debootstrap --variant=minbase bookworm "$folder"
for file in /etc/resolv.conf /etc/pip.conf; do
    [ -e "$file" ] && cp "$file" "$folder$file"
done
mkdir -p "$folder/src" "$folder/proc"
cp "$repository"/{constraints.txt,pyproject.toml,README.md,LICENSE} "$folder/src/"
cp -r "$repository/src" "$folder/src/"
mountpoint -q "$folder/proc" || mount -t proc proc "$folder/proc"
trap 'umount "$folder/proc"' EXIT

# What stands behind RUN and ENV, in order; ARG and COPY are above.
export EXTRAS=metrics,tiff,heic TORCH_INDEX=${TORCH_INDEX:-}
{
    echo 'set -e; export HOME=/root'
    python3 - "$repository/Dockerfile" <<'PYTHON'
import re, sys

text = re.sub(r"\\\n", "", open(sys.argv[1], encoding="utf-8").read())
for word, rest in re.findall(r"^(RUN|ENV) (.*)$", text, re.MULTILINE):
    print(rest if word == "RUN" else f"export {rest}")
PYTHON
    echo 'su patchkin -s /bin/sh -c "cd /work && patchkin doctor && patchkin translate --help > /dev/null"'
} | chroot "$folder" /bin/bash
