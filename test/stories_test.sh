#!/bin/sh
# A model that somebody else trained says what it said there: stories260K greedily gives llama2.c's 464 bytes, imported from
# llama2.c's file, and again after safetensors, GGUF and llama2.c. Needs BRIGADE_SHARED or ../shared.
set -eu
brigade=${BRIGADE:-build/brigade}
models=${BRIGADE_SHARED:-../shared}/data/models
[ -f "$models/stories260K.bin" ] || { echo "skipped: no $models/stories260K.bin"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

says() { # MODEL: compares what it says with the recorded text
    "$brigade" generate "$1" --tokens 200 --temperature 0 >"$work/text"
    cmp "$work/text" "$models/stories260K.greedy.txt"
    echo "$2: $(wc -c <"$work/text") bytes, equal"
}

"$brigade" import --from llama2c "$models/stories260K.bin" --tokenizer "$models/stories260K.tokenizer.bin" --out "$work/imported"
says "$work/imported" "llama2.c"
"$brigade" export "$work/imported" --to gguf --out "$work/model.gguf"
says "$work/model.gguf" "gguf"
"$brigade" export "$work/model.gguf" --to safetensors --out "$work/hf"
says "$work/hf" "safetensors"
"$brigade" export "$work/hf" --to llama2c --out "$work/model.bin"
cmp "$work/model.bin.tokenizer.bin" "$models/stories260K.tokenizer.bin"
"$brigade" import --from llama2c "$work/model.bin" --tokenizer "$work/model.bin.tokenizer.bin" --out "$work/again"
says "$work/again" "llama2.c again"
[ "$("$brigade" diff "$work/imported" "$work/again" --json | grep -c '"identical":true')" = 1 ]

# The check can fail: other weights, other words.
! "$brigade" generate "$work/again" --tokens 200 --temperature 1 --seed 1 | cmp -s - "$models/stories260K.greedy.txt"
