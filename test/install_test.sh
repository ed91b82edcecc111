#!/bin/sh
# What a program that embeds brigade meets: `make install` into a fresh prefix, pkg-config, examples/embed.c compiled against
# the shared and the static library, run on a small text. Both print the same curve.
set -eu
build=${BRIGADE_BUILD:-build}
[ -f "$build/libbrigade.so" ] || { echo "skipped: $build/libbrigade.so was not built"; exit 77; }
! nm -D "$build/libbrigade.so" | grep -q __asan_init || { echo "skipped: a sanitizer build"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cmake --install "$build" --prefix "$work/prefix" >/dev/null
pkg_config_path=$(dirname "$(find "$work/prefix" -name brigade.pc)")
export PKG_CONFIG_PATH="$pkg_config_path"
libdir=$(pkg-config --variable=libdir brigade)
tools/corpus 30000 1 >"$work/corpus.txt"
cc -Wall -Werror examples/embed.c $(pkg-config --cflags --libs brigade) -o "$work/shared"
cc -Wall -Werror examples/embed.c $(pkg-config --cflags brigade) "$libdir/libbrigade.a" \
    $(pkg-config --static --libs brigade | sed 's/-lbrigade//') -o "$work/static"
LD_LIBRARY_PATH=$libdir "$work/shared" "$work/corpus.txt" "$work/run1" 2>/dev/null | grep curve_sha256 >"$work/a"
"$work/static" "$work/corpus.txt" "$work/run2" 2>/dev/null | grep curve_sha256 >"$work/b"
cmp "$work/a" "$work/b"
"$work/prefix/bin/brigade" verify "$work/run1" >/dev/null
cat "$work/a"
