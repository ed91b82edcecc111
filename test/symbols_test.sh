#!/bin/sh
# libbrigade.so exports the installed API and nothing else: every symbol is declared in include/brigade/, and every
# declared function is exported.
set -eu
lib=${BRIGADE_BUILD:-build}/libbrigade.so
[ -f "$lib" ] || { echo "skipped: $lib was not built"; exit 77; }
exported=$(nm -D --defined-only "$lib" | awk '$2 ~ /^[A-Z]$/ {print $3}' | grep -v '^_' | sed 's/@.*//' | sort)
declared=$(sed -n 's/^BG_API .*[ *]\(bg_[a-z0-9_]*\)(.*/\1/p' include/brigade/*.h | sort)
if [ "$exported" != "$declared" ]; then
    echo "declared in include/brigade/:"; echo "$declared"
    echo "exported by $lib:"; echo "$exported"
    exit 1
fi
echo "$(echo "$exported" | wc -l) symbols, all declared"
