#!/bin/sh
# Installs the build of torch that fits this machine, with the given pip: plain torch if there is an NVIDIA device, or if
# the plain build has no CUDA anyhow. Otherwise the CPU build, if pip can find one (see README, Installing).
set -eu
pip=$1
version=2.13.0
if "$pip" show torch >/dev/null 2>&1; then
    exit 0
fi
plain_is_small=no
case "$(uname -s)-$(uname -m)" in
    Linux-x86_64) ;;
    *) plain_is_small=yes ;;
esac
if [ "$plain_is_small" = yes ] || [ -e /dev/nvidiactl ]; then
    exec "$pip" install "torch==$version"
fi
if "$pip" install "torch==$version+cpu"; then
    exit 0
fi
echo "No CPU build of torch in reach of pip: taking the plain one, which brings CUDA (gigabytes)." >&2
echo "README, Installing, says how to point pip to the CPU builds." >&2
exec "$pip" install "torch==$version"
