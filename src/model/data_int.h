// Inside the corpus: files of the list -> unpacked bytes -> documents in pieces -> tokens in a cache file. Each step
// streams into the next, so memory is bounded whatever the corpus' size.
#ifndef MODEL_DATA_INT_H
#define MODEL_DATA_INT_H

#include "base/str.h"
#include "model/data.h"

// data_source.c: the files behind a list of paths, and their bytes.

enum data_packing { DATA_PLAIN, DATA_GZIP, DATA_ZSTD };

struct data_file {
    char *path;
    uint64_t size; // on disk
    int64_t mtime_ns;
    enum data_packing packing;
    bool jsonl;
};
struct data_files {
    struct data_file *items;
    size_t count, capacity;
    uint64_t bytes; // on disk, all together
};

BG_MUST_USE bg_status data_files_list(struct bg_env *env, const char *const *paths, size_t count, struct bg_error *err,
                                      struct data_files *files);
void data_files_fini(struct data_files *files);

// Hands on unpacked bytes, at most 1 MiB a call; `consumed`: bytes of the packed input used so far.
typedef bg_status (*data_bytes_fn)(void *arg, const uint8_t *bytes, size_t size, uint64_t consumed,
                                   struct bg_error *err);
BG_MUST_USE bg_status data_unpack(const struct data_file *file, const uint8_t *packed, size_t size, data_bytes_fn fn,
                                  void *arg, struct bg_error *err);

// data_document.c: documents out of the bytes of one file.

enum { DATA_PIECE_MAX = 4 << 20, DATA_LINE_MAX = 64 << 20 };

// `first`: this piece opens a document. Pieces are never empty.
typedef bg_status (*data_piece_fn)(void *arg, const char *text, size_t size, bool first, struct bg_error *err);

struct data_splitter {
    const char *path; // for errors
    bool jsonl;
    const char *field; // "a" or "a.b"
    const char *utf8;  // keep, error, replace
    data_piece_fn fn;
    void *arg;
    // Below: its own. Zero it.
    struct bg_str buffer; // what came and was not handed on yet
    struct bg_str clean;  // a piece with U+FFFD where it was not UTF-8
    uint64_t line;        // .jsonl: of the line being read; text: newlines handed on
    uint64_t offset;      // text: bytes handed on
    bool started;         // the current document has handed on a piece
};
BG_MUST_USE bg_status data_splitter_feed(struct data_splitter *splitter, const uint8_t *bytes, size_t size,
                                         struct bg_error *err);
BG_MUST_USE bg_status data_splitter_end(struct data_splitter *splitter, struct bg_error *err); // no more bytes
void data_splitter_fini(struct data_splitter *splitter);

// data_cache.c: the tokens of one list of files, in one mapped file.

struct data_cache {
    struct bg_map map;
    struct token_view tokens;
    uint64_t documents, text_bytes;
    char sha256[65]; // of the token data
    char *note;      // a damaged cache was rebuilt: why; or NULL
};

// Finds the cache of this list of files in options->cache_dir, or makes it. No option is NULL here.
BG_MUST_USE bg_status data_cache_get(struct bg_env *env, const struct corpus_options *options,
                                     const struct data_files *files, const struct tokenizer *tokenizer,
                                     corpus_progress_fn progress, void *arg, struct bg_error *err,
                                     struct data_cache *cache);
void data_cache_close(struct bg_env *env, struct data_cache *cache);

#endif
