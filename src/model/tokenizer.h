// Tokenizers: bytes; byte-level BPE (tokenizer.json, vocab.json+merges.txt, .tiktoken, GGUF); llama2.c's
// SentencePiece-like tokenizer.bin and GGUF's "llama" vocabularies.
#ifndef MODEL_TOKENIZER_H
#define MODEL_TOKENIZER_H

#include "base/env.h"

struct tokenizer;

// `source`: "bytes", a file (tokenizer.json, vocab.json, *.tiktoken, *.bin, *.gguf) or a directory that holds one.
BG_MUST_USE bg_status tokenizer_open(struct bg_env *env, const char *source, struct bg_error *err,
                                     struct tokenizer **tokenizer);
void tokenizer_destroy(struct tokenizer *tokenizer);

const char *tokenizer_kind(const struct tokenizer *tokenizer); // "bytes", "bpe", "sentencepiece"
uint32_t tokenizer_size(const struct tokenizer *tokenizer);    // ids are below this
int32_t tokenizer_bos(const struct tokenizer *tokenizer);      // -1: none
int32_t tokenizer_eos(const struct tokenizer *tokenizer);      // joins documents (bytes: 0); -1: none
bool tokenizer_adds_bos(const struct tokenizer *tokenizer);    // a prompt starts with bos (llama2.c, Llama)
// A model that draws this ends its text: eos, bos where prompts start with it, and what was added (before first use).
bool tokenizer_ends(const struct tokenizer *tokenizer, int32_t id);
void tokenizer_add_end(struct tokenizer *tokenizer, int32_t id);
void tokenizer_sha256(const struct tokenizer *tokenizer, char hex[65]); // of its canonical tokenizer.json

struct token_list {
    int32_t *ids;
    size_t count, capacity;
};
void token_list_fini(struct token_list *list);

// Appends the ids of `text` (any bytes; invalid UTF-8 is encoded byte by byte). special: added tokens such as
// <|endoftext|> written in the text are recognised.
BG_MUST_USE bg_status tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t size, bool special,
                                       struct bg_error *err, struct token_list *list);
// The bytes of one token, as generation streams them. SentencePiece's leading blank is dropped at the beginning: where
// `previous` is -1 (none) or bos. Control tokens, and ids without a token, give no bytes.
void tokenizer_token_bytes(const struct tokenizer *tokenizer, int32_t previous, int32_t id, const char **bytes,
                           size_t *size);
// The piece of an id as tokenizer.json and GGUF spell it ("\u0120the", "\u2581the", "<0x0A>"), its score, and its kind.
enum token_kind { TOKEN_NORMAL, TOKEN_UNKNOWN, TOKEN_CONTROL, TOKEN_BYTE };
void tokenizer_piece(const struct tokenizer *tokenizer, int32_t id, const char **bytes, size_t *size, float *score,
                     enum token_kind *kind);

// Any kind is saved as a `tokenizer.json` that Hugging Face tokenizers loads, and that tokenizer_open reads back alike.
BG_MUST_USE bg_status tokenizer_save(struct bg_env *env, const struct tokenizer *tokenizer, const char *directory,
                                     struct bg_error *err);
// The merges of a BPE (for GGUF export): "left right" in the byte-to-unicode spelling; count 0 for other kinds.
size_t tokenizer_merge_count(const struct tokenizer *tokenizer);
char *tokenizer_merge(const struct tokenizer *tokenizer, size_t index); // bg_free it

// Learns a byte-level BPE of `vocab` ids from the files of a corpus (text, directories, .jsonl with "text", .gz, .zst);
// ties by lowest pair of ids; deterministic. Fewer ids where no pair occurs twice any more.
BG_MUST_USE bg_status tokenizer_train(struct bg_env *env, const char *const *paths, size_t count, uint32_t vocab,
                                      struct bg_error *err, struct tokenizer **tokenizer);

#endif
