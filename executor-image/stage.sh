#!/bin/sh
# Puts into DIR what the image holds: the binary without symbols, the loader and the shared libraries that it names (from
# the machine that built it, so that they fit), the roots of trust, and the files under rootfs/.
#
#   executor-image/stage.sh BINARY DIR
#
# Called inside the Dockerfile's build stage and by deploy/local/image.sh. Every file gets a mode that does not depend on
# the umask of whoever builds.
set -eu

binary=$1
dir=$2
here=$(cd "$(dirname "$0")" && pwd)
ROOTS=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}

[ -s "$ROOTS" ] || { echo "stage: error: no roots of trust in $ROOTS (install ca-certificates, or set SSL_CERT_FILE)" >&2; exit 1; }
mkdir -p "$dir/usr/bin" "$dir/etc/ssl/certs" "$dir/etc/sluice"
cp -R "$here/rootfs/." "$dir/"
strip -s -o "$dir/usr/bin/sluice" "$binary"
cp -L "$ROOTS" "$dir/etc/ssl/certs/ca-certificates.crt"
# ldd names each as `name => path (address)`, the loader as `path (address)`; a static binary has none of them.
ldd "$binary" 2>/dev/null | grep -o '/[^ ]*' | while read -r library; do
  mkdir -p "$dir$(dirname "$library")"
  cp -L "$library" "$dir$library"
done
find "$dir" -type d -exec chmod 755 {} +
find "$dir" -type f -exec chmod 644 {} +
find "$dir" \( -path '*/bin/*' -o -name 'ld-linux*' \) -type f -exec chmod 755 {} +
