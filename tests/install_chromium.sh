#!/bin/sh
# Installs Debian's Chromium for the browser tests of the report, where it is missing and we may (root). Never fails for
# lack of rights or network: the tests then skip, and say why.
set -eu

for name in chromium chromium-browser google-chrome; do
    if command -v "$name" >/dev/null 2>&1; then
        exit 0
    fi
done
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "Chromium is missing: the browser tests will skip. Install it with: apt-get install chromium" >&2
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
if ! { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; }; then
    echo "Chromium could not be installed: the browser tests will skip." >&2
fi
