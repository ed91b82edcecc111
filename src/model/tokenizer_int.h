// Inside of a tokenizer, for src/model/tokenizer*.c, their tests and fuzz targets. Every source (JSON, tiktoken, GGUF,
// tokenizer.bin, training) fills the same struct and calls tokenizer_finish(); one encoder and one saver serve them
// all.
//
// An id has up to three byte strings:
//   piece  as tokenizer.json and GGUF spell it ("Ġthe", "▁the", "<0x0A>", "<|endoftext|>")
//   text   the bytes it stands for (" the", "\n"); empty for control tokens
//   key    what the merges of a score-ordered vocabulary (tokenizer.bin, GGUF "llama") compare: the piece with a plain
//          blank; control tokens have none
#ifndef MODEL_TOKENIZER_INT_H
#define MODEL_TOKENIZER_INT_H

#include "model/tokenizer.h"

#include "base/str.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// ---- byte strings by id, and back (tokenizer_pieces.c)

struct piece_span {
    size_t offset;
    uint32_t size;
    bool present;
};
struct piece_set {
    char *data;
    size_t size, capacity;
    struct piece_span *spans; // by id
    uint32_t count, span_capacity;
    uint32_t *slots; // id + 1; 0: free
    uint32_t slot_count, slots_used;
};
void piece_set_put(struct piece_set *set, uint32_t id, const char *bytes, size_t size);
bool piece_set_has(const struct piece_set *set, int32_t id);
const char *piece_set_get(const struct piece_set *set, int32_t id, size_t *size); // "" where there is none
int32_t piece_set_index(struct piece_set *set, uint32_t id); // makes it findable; the id that has the same bytes, or -1
int32_t piece_set_find(const struct piece_set *set, const char *bytes, size_t size); // -1: none
void piece_set_fini(struct piece_set *set);

// GPT-2's spelling of bytes as printable characters.
void byte_spell(const char *bytes, size_t size, struct bg_str *out);
bool byte_unspell(const char *piece, size_t size, struct bg_str *out); // false: holds another character
// Length of the valid UTF-8 character at `text`, 0 if there is none.
size_t utf8_length(const char *text, size_t size);
uint32_t utf8_decode(const char *text, size_t length); // of a valid character
void utf8_append(struct bg_str *out, uint32_t code);
// "<0x0A>" -> 10; -1 for any other piece.
int piece_byte_value(const char *piece, size_t size);

// ---- merges (tokenizer_merge.c)

struct merge {
    int32_t left, right, result;
    uint32_t rank; // the lowest is applied first, the leftmost among equals
};
struct pair_slot {
    uint64_t key;
    uint32_t rank;
    int32_t result;
};
struct pair_table {
    struct pair_slot *slots;
    size_t slot_count, used;
    unsigned shift;
};
bool pair_table_add(struct pair_table *table, const struct merge *merge); // false: the pair is there already
int32_t pair_table_find(const struct pair_table *table, int32_t left, int32_t right); // the result, or -1
void pair_table_fini(struct pair_table *table);

struct merge_work { // reused memory of the merge loop
    int32_t *ids;
    size_t id_capacity;
    void *links, *heap;
    size_t link_capacity, heap_capacity;
};
int32_t *merge_work_ids(struct merge_work *work, size_t count);
// Merges work->ids[0..count) in place and returns how many are left. last: the last pair merged (may be NULL).
size_t merge_run(const struct pair_table *pairs, struct merge_work *work, size_t count, struct merge *last);
void merge_work_fini(struct merge_work *work);

// ---- steps before the merges

enum normal_kind { NORMAL_PREPEND, NORMAL_REPLACE, NORMAL_NFC, NORMAL_NFD };
struct normal_step {
    enum normal_kind kind;
    char *from, *to; // prepend: to
    size_t from_size, to_size;
};
// Appends the normalized text; invalid UTF-8 passes through unchanged; false: it grows without measure
// (tokenizer_normal.c).
bool normal_run(const struct normal_step *steps, size_t count, const char *text, size_t size, struct bg_str *out);
// Canonical composition or decomposition of valid UTF-8 (tokenizer_unicode.c).
void unicode_normalize(const char *text, size_t size, bool compose, struct bg_str *out);

enum split_behavior { SPLIT_ISOLATED, SPLIT_REMOVED, SPLIT_WITH_PREVIOUS, SPLIT_WITH_NEXT, SPLIT_CONTIGUOUS };
enum split_kind { SPLIT_REGEX, SPLIT_STRING, SPLIT_METASPACE, SPLIT_BYTE_LEVEL };
enum split_prepend { PREPEND_NEVER, PREPEND_FIRST, PREPEND_ALWAYS };
struct split_step {
    enum split_kind kind;
    char *pattern; // regex, string; metaspace: the replacement character
    size_t pattern_size;
    enum split_behavior behavior;
    bool invert;
    bool trusted;               // one of our own patterns: known not to blow up, so it may run as JIT code
    bool use_regex;             // byte level: the GPT-2 pattern
    bool split;                 // metaspace: cut before every replacement
    enum split_prepend prepend; // metaspace, byte level
    void *code;                 // pcre2_code
};
#define SPLIT_STEPS_MAX 16
extern const char split_pattern_gpt2[], split_pattern_llama3[], split_pattern_qwen2[], split_pattern_o200k[];
// Compiles; the error names `where` (file and key) and the pattern.
bg_status split_step_init(struct split_step *step, const char *where, struct bg_error *err);
void split_step_fini(struct split_step *step);

// Splits `text` by steps and hands out the words in order.
typedef bg_status (*split_word_fn)(void *arg, const char *word, size_t size, struct bg_error *err);
struct splitter {
    const struct split_step *steps;
    size_t count;
    const char *name; // of the tokenizer, for errors
    bool first;       // the text is the beginning of the input
    split_word_fn fn;
    void *arg;
    void *match, *limits;  // pcre2 state, made on first use
    uint64_t work, budget; // backtracking steps spent and allowed
    struct bg_str scratch[SPLIT_STEPS_MAX];
};
bg_status split_run(struct splitter *splitter, const char *text, size_t size, struct bg_error *err);
void splitter_fini(struct splitter *splitter);

// ---- the tokenizer

enum {
    PIECE_MODEL = 1,   // stands in model.vocab
    PIECE_ADDED = 2,   // stands in added_tokens
    PIECE_CONTROL = 4, // special: gives no bytes
    PIECE_BYTE = 8,    // <0xNN>
};

struct added_token {
    int32_t id;
    char *content, *match; // as written; as it is looked for (normalized)
    size_t content_size, match_size;
    bool special, lstrip, rstrip, single_word, normalized;
};

enum tokenizer_form { FORM_BYTES, FORM_BPE, FORM_SENTENCEPIECE };

struct tokenizer {
    char *name; // where it came from, for errors
    enum tokenizer_form form;
    bool byte_level;    // symbols are bytes; else characters of the normalized text
    bool byte_fallback; // characters without a piece become <0xNN>
    bool score_order;   // merges ordered by score, compared as llama2.c does
    bool fuse_unk, ignore_merges, adds_bos;
    unsigned decode_strip; // blanks taken from the start of a decoded text
    bool cuts;             // words may be cut where no merge joins
    bool decode_blank;     // decoder turns "▁" into a blank
    uint32_t size;         // ids are below it
    uint64_t id_limit;     // loader's bound on ids (0: none yet)
    int32_t bos, eos, unk;
    int32_t *ends; // besides those
    size_t end_count;

    struct piece_set pieces, texts, keys;
    uint8_t *flags; // PIECE_*, by id
    size_t flag_capacity;
    float *scores; // by id, NULL: none
    int32_t byte_ids[256];

    struct merge *merges;
    size_t merge_count, merge_capacity;
    struct pair_table pairs;
    uint8_t joins[256 * 256 / 8]; // bit (a, b): some merge can join ...a with b...

    struct normal_step *normals;
    size_t normal_count;
    struct split_step *splits;
    size_t split_count;
    struct added_token *added; // longest first
    size_t added_count;
    uint8_t added_first[256]; // first bytes of added tokens
};

struct tokenizer *tokenizer_create(const char *name);
// Adds a piece; refuses ids out of bounds and spellings or ids that are there already.
BG_MUST_USE bg_status tokenizer_add_piece(struct tokenizer *tokenizer, uint64_t id, const char *piece, size_t size,
                                          unsigned flags, struct bg_error *err);
// Copies `token` (content is its text). The piece must exist or is added.
BG_MUST_USE bg_status tokenizer_add_added(struct tokenizer *tokenizer, const struct added_token *token,
                                          struct bg_error *err);
BG_MUST_USE bg_status tokenizer_add_special(struct tokenizer *tokenizer, uint64_t id, const char *content,
                                            struct bg_error *err); // the usual kind: control, nothing stripped
// The next merge by its two pieces; `where` says which for the error.
BG_MUST_USE bg_status tokenizer_add_merge(struct tokenizer *tokenizer, const char *left, size_t left_size,
                                          const char *right, size_t right_size, const char *where, size_t index,
                                          struct bg_error *err);
struct split_step *tokenizer_add_split(struct tokenizer *tokenizer, enum split_kind kind, const char *pattern);
void tokenizer_add_normal(struct tokenizer *tokenizer, enum normal_kind kind, const char *from, const char *to);
void tokenizer_clear_normals(struct tokenizer *tokenizer);
// Merges from the order of pieces: rank_of[id] (UINT32_MAX: never merged). One merge a piece, the one that the greedy
// order itself takes, so that rank ties between two ways to the same piece cannot arise.
BG_MUST_USE bg_status tokenizer_merges_by_rank(struct tokenizer *tokenizer, const uint32_t *rank_of,
                                               struct bg_error *err);
BG_MUST_USE bg_status tokenizer_merges_by_score(struct tokenizer *tokenizer, struct bg_error *err);
// Byte-level BPE's usual settings: ByteLevel as the last split.
void tokenizer_set_byte_level(struct tokenizer *tokenizer, bool use_regex);
// Checks, texts, kinds, tables. After it the tokenizer is ready and never changes.
BG_MUST_USE bg_status tokenizer_finish(struct tokenizer *tokenizer, struct bg_error *err);
int32_t tokenizer_find(const struct tokenizer *tokenizer, const char *piece); // -1: none

// ---- sources: parse bytes in memory (also what the fuzz targets call)

BG_MUST_USE bg_status tokenizer_parse_json(const char *bytes, size_t size, const char *name, struct bg_error *err,
                                           struct tokenizer **tokenizer);
BG_MUST_USE bg_status tokenizer_parse_vocab(const char *vocab, size_t vocab_size, const char *merges,
                                            size_t merges_size, const char *name, struct bg_error *err,
                                            struct tokenizer **tokenizer);
BG_MUST_USE bg_status tokenizer_parse_tiktoken(const char *bytes, size_t size, const char *name, struct bg_error *err,
                                               struct tokenizer **tokenizer);
BG_MUST_USE bg_status tokenizer_parse_llama2c(const char *bytes, size_t size, const char *name, struct bg_error *err,
                                              struct tokenizer **tokenizer);
BG_MUST_USE bg_status tokenizer_parse_train(const char *const *texts, const size_t *sizes, size_t count, uint32_t vocab,
                                            struct bg_error *err, struct tokenizer **tokenizer);
struct gguf;
BG_MUST_USE bg_status tokenizer_parse_gguf(const struct gguf *file, const char *name, struct bg_error *err,
                                           struct tokenizer **tokenizer);
// The inverse of reading tokenizer.ggml.pre: a name for how this byte-level BPE splits, NULL: there is none. bg_free
// it.
char *tokenizer_gguf_pre(const struct tokenizer *tokenizer);
struct tokenizer *tokenizer_make_bytes(void);
// eos_token, bos_token, add_bos_token of a tokenizer_config.json beside the tokenizer.
BG_MUST_USE bg_status tokenizer_apply_config(struct tokenizer *tokenizer, const char *bytes, size_t size,
                                             const char *name, struct bg_error *err);
// Sequences of tokenizer.json (tokenizer_json_steps.c). `json` is a json_t.
BG_MUST_USE bg_status tokenizer_read_normalizer(struct tokenizer *tokenizer, const void *json, struct bg_error *err);
BG_MUST_USE bg_status tokenizer_read_pre_tokenizer(struct tokenizer *tokenizer, const void *json, struct bg_error *err);
BG_MUST_USE bg_status tokenizer_read_decoder(struct tokenizer *tokenizer, const void *json, struct bg_error *err);
BG_MUST_USE bg_status tokenizer_read_post_processor(struct tokenizer *tokenizer, const void *json,
                                                    struct bg_error *err);
char *tokenizer_json_text(const struct tokenizer *tokenizer, size_t *size); // the canonical tokenizer.json; bg_free it

#endif
