#!/bin/sh
# Install ialcms with DeepSpeed into /opt/ialcms, from the checkout in /opt/ialcms-source. Run as root in Debian 12 (or
# newer, or Ubuntu 24.04) by the Dockerfile and the Apptainer definition; needs Debian's and Python's package index.
set -eu
export DEBIAN_FRONTEND=noninteractive PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore

apt-get update
# python3-dev and a compiler: torch.compile and DeepSpeed build kernels when a run starts
apt-get install --yes --no-install-recommends ca-certificates git g++ python3 python3-dev python3-venv
rm -rf /var/lib/apt/lists/*

python3 -m venv /opt/ialcms
/opt/ialcms/bin/pip install --upgrade pip setuptools wheel ninja
/opt/ialcms/bin/pip install /opt/ialcms-source
DS_BUILD_OPS=0 /opt/ialcms/bin/pip install --no-build-isolation 'deepspeed>=0.19'
/opt/ialcms/bin/ialcms --version
