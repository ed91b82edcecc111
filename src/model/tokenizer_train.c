// Learning a byte-level BPE (Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units", ACL 2016,
// section 3.2): again and again the most frequent neighbouring pair becomes a token. Texts are cut by GPT-2's pattern,
// equal words are counted once, and a merge touches only the words that hold its pair, so the work shrinks as it goes
// on.
//
// Deterministic: pairs are compared by (count, then lowest left id, then lowest right id), never by hash order. Ids 0
// to 255 are the bytes, then the merges in order, and <|endoftext|> is the last id.
#include "model/tokenizer_int.h"

#include "base/mem.h"
#include "model/data_int.h"

#include <string.h>

#define VOCAB_MIN      257
#define VOCAB_MAX      1000000
#define WORD_BYTES_MAX 1024 // longer words are learned in parts
#define COUNT_MIN      2    // a pair seen once is not worth a token

struct word {
    size_t start; // in ids
    uint32_t size;
    uint64_t count;
    uint32_t seen; // round in which it was last rewritten
};
struct pair { // its place in `pairs` is the result of the pair table
    int32_t left, right;
    uint64_t count, queued; // queued: the count it stands in the heap with
    uint32_t *words;
    size_t word_count, word_capacity;
};
struct queued {
    uint64_t count;
    uint32_t pair;
};
struct learner {
    struct piece_set unique;
    struct word *words;
    size_t word_capacity;
    int32_t *ids;
    struct pair_table table;
    struct pair *pairs;
    size_t pair_count, pair_capacity;
    struct queued *heap;
    size_t heap_count, heap_capacity;
    struct piece_set texts; // bytes of every id
};

static void *grown(void *items, size_t *capacity, size_t needed, size_t each)
{
    if (needed <= *capacity)
        return items;
    *capacity = *capacity ? 2 * *capacity : 1024;
    return bg_realloc_array(items, *capacity, each);
}

// ---- the queue of pairs

static bool better(const struct learner *l, struct queued a, struct queued b)
{
    const struct pair *x = &l->pairs[a.pair], *y = &l->pairs[b.pair];
    if (a.count != b.count)
        return a.count > b.count;
    return x->left != y->left ? x->left < y->left : x->right < y->right;
}

static void queue_push(struct learner *l, uint32_t pair)
{
    struct queued item = {l->pairs[pair].count, pair};
    l->pairs[pair].queued = item.count;
    l->heap = grown(l->heap, &l->heap_capacity, l->heap_count + 1, sizeof *l->heap);
    size_t i = l->heap_count++;
    for (; i > 0 && better(l, item, l->heap[(i - 1) / 2]); i = (i - 1) / 2)
        l->heap[i] = l->heap[(i - 1) / 2];
    l->heap[i] = item;
}

static struct queued queue_pop(struct learner *l)
{
    struct queued top = l->heap[0], moving = l->heap[--l->heap_count];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= l->heap_count)
            break;
        if (child + 1 < l->heap_count && better(l, l->heap[child + 1], l->heap[child]))
            child++;
        if (!better(l, l->heap[child], moving))
            break;
        l->heap[i] = l->heap[child];
        i = child;
    }
    if (l->heap_count > 0)
        l->heap[i] = moving;
    return top;
}

// The pair to merge now, or -1. Counts that fell since they were queued go back with what they are.
static int64_t best_pair(struct learner *l)
{
    while (l->heap_count > 0) {
        struct queued top = queue_pop(l);
        struct pair *pair = &l->pairs[top.pair];
        if (pair->queued != top.count)
            continue; // queued again with another count
        pair->queued = 0;
        if (pair->count == top.count)
            return pair->count >= COUNT_MIN ? (int64_t)top.pair : -1;
        if (pair->count >= COUNT_MIN)
            queue_push(l, top.pair);
    }
    return -1;
}

// ---- counting

static uint32_t pair_of(struct learner *l, int32_t left, int32_t right)
{
    int32_t known = pair_table_find(&l->table, left, right);
    if (known >= 0)
        return (uint32_t)known;
    l->pairs = grown(l->pairs, &l->pair_capacity, l->pair_count + 1, sizeof *l->pairs);
    l->pairs[l->pair_count] = (struct pair){.left = left, .right = right};
    (void)pair_table_add(&l->table, &(struct merge){left, right, (int32_t)l->pair_count, 0});
    return (uint32_t)l->pair_count++;
}

static void pair_stands_in(struct pair *pair, uint32_t word)
{
    if (pair->word_count > 0 && pair->words[pair->word_count - 1] == word)
        return;
    if (pair->word_count == pair->word_capacity) {
        pair->word_capacity = pair->word_capacity ? 2 * pair->word_capacity : 4;
        pair->words = bg_realloc_array(pair->words, pair->word_capacity, sizeof *pair->words);
    }
    pair->words[pair->word_count++] = word;
}

static void count_word(struct learner *l, uint32_t index)
{
    const struct word *word = &l->words[index];
    const int32_t *ids = l->ids + word->start;
    for (uint32_t i = 0; i + 1 < word->size; i++) {
        uint32_t at = pair_of(l, ids[i], ids[i + 1]);
        l->pairs[at].count += word->count;
        pair_stands_in(&l->pairs[at], index);
    }
}

// Replaces the pair in one word; counts of its other pairs move with it.
static void rewrite_word(struct learner *l, uint32_t index, int32_t left, int32_t right, int32_t result)
{
    struct word *word = &l->words[index];
    int32_t *ids = l->ids + word->start;
    for (uint32_t i = 0; i + 1 < word->size; i++)
        l->pairs[pair_table_find(&l->table, ids[i], ids[i + 1])].count -= word->count;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < word->size; i++) {
        bool here = i + 1 < word->size && ids[i] == left && ids[i + 1] == right;
        ids[kept++] = here ? result : ids[i];
        i += here;
    }
    word->size = kept;
    for (uint32_t i = 0; i + 1 < kept; i++) {
        bool touched = ids[i] == result || ids[i + 1] == result;
        uint32_t at = pair_of(l, ids[i], ids[i + 1]);
        l->pairs[at].count += word->count;
        if (touched)
            pair_stands_in(&l->pairs[at], index);
    }
}

static void apply(struct learner *l, uint32_t chosen, int32_t result, bool fresh, uint32_t round)
{
    struct pair pair = l->pairs[chosen]; // rewriting may move the array
    // Only pairs with the result get more frequent; those are new unless another pair made the same bytes before.
    size_t first = fresh ? l->pair_count : 0;
    l->pairs[chosen].words = NULL;
    l->pairs[chosen].word_count = l->pairs[chosen].word_capacity = 0;
    for (size_t i = 0; i < pair.word_count; i++) {
        if (l->words[pair.words[i]].seen == round)
            continue;
        l->words[pair.words[i]].seen = round;
        rewrite_word(l, pair.words[i], pair.left, pair.right, result);
    }
    bg_free(pair.words);
    for (size_t i = first; i < l->pair_count; i++)
        if (l->pairs[i].count >= COUNT_MIN && l->pairs[i].count > l->pairs[i].queued)
            queue_push(l, (uint32_t)i);
}

// ---- words

static bg_status take_word(void *arg, const char *text, size_t size, struct bg_error *err)
{
    (void)err;
    struct learner *l = arg;
    for (size_t at = 0; at < size; at += WORD_BYTES_MAX) {
        size_t part = size - at < WORD_BYTES_MAX ? size - at : WORD_BYTES_MAX;
        int32_t known = piece_set_find(&l->unique, text + at, part);
        if (known < 0) {
            known = (int32_t)l->unique.count;
            piece_set_put(&l->unique, (uint32_t)known, text + at, part);
            (void)piece_set_index(&l->unique, (uint32_t)known);
            l->words = grown(l->words, &l->word_capacity, (size_t)known + 1, sizeof *l->words);
            l->words[known] = (struct word){.size = (uint32_t)part};
        }
        l->words[known].count++;
    }
    return BG_OK;
}

static void start_counts(struct learner *l)
{
    l->ids = bg_alloc_array(l->unique.size, sizeof *l->ids);
    for (size_t i = 0; i < l->unique.size; i++)
        l->ids[i] = (uint8_t)l->unique.data[i];
    for (uint32_t i = 0; i < l->unique.count; i++) {
        l->words[i].start = l->unique.spans[i].offset;
        count_word(l, i);
    }
    for (size_t i = 0; i < l->pair_count; i++)
        queue_push(l, (uint32_t)i);
}

// ---- the vocabulary

static bg_status add_token(struct tokenizer *tk, struct piece_set *texts, const char *bytes, size_t size,
                           struct bg_error *err)
{
    struct bg_str piece = {0};
    uint32_t id = texts->count;
    byte_spell(bytes, size, &piece);
    bg_status status = tokenizer_add_piece(tk, id, piece.data, piece.size, PIECE_MODEL, err);
    bg_str_fini(&piece);
    piece_set_put(texts, id, bytes, size);
    (void)piece_set_index(texts, id);
    return status;
}

// One merge: its result is a new token, or an old one where another pair made the same bytes.
static bg_status learn(struct learner *l, struct tokenizer *tk, uint32_t chosen, uint32_t round, struct bg_error *err)
{
    struct pair *pair = &l->pairs[chosen];
    size_t size;
    struct bg_str left = {0}, right = {0}, whole = {0};
    const char *bytes = piece_set_get(&l->texts, pair->left, &size);
    byte_spell(bytes, size, &left);
    bg_str_add_bytes(&whole, bytes, size);
    bytes = piece_set_get(&l->texts, pair->right, &size);
    byte_spell(bytes, size, &right);
    bg_str_add_bytes(&whole, bytes, size);
    bg_status status = BG_OK;
    int32_t result = piece_set_find(&l->texts, whole.data, whole.size);
    bool fresh = result < 0;
    if (fresh) {
        result = (int32_t)l->texts.count;
        status = add_token(tk, &l->texts, whole.data, whole.size, err);
    }
    if (status == BG_OK)
        status = tokenizer_add_merge(tk, left.data, left.size, right.data, right.size, "learned merge", round, err);
    bg_str_fini(&left);
    bg_str_fini(&right);
    bg_str_fini(&whole);
    if (status == BG_OK)
        apply(l, chosen, result, fresh, round);
    return status;
}

static void learner_fini(struct learner *l)
{
    for (size_t i = 0; i < l->pair_count; i++)
        bg_free(l->pairs[i].words);
    piece_set_fini(&l->unique);
    piece_set_fini(&l->texts);
    pair_table_fini(&l->table);
    bg_free(l->words);
    bg_free(l->ids);
    bg_free(l->pairs);
    bg_free(l->heap);
}

// ---- training from texts in memory, or from the files of a corpus

struct training {
    struct tokenizer *tk;
    struct learner learner;
    struct splitter splitter;
    struct data_splitter *documents; // of the file being read
};

static bg_status training_start(struct training *t, uint32_t vocab, struct bg_error *err)
{
    *t = (struct training){0};
    if (vocab < VOCAB_MIN || vocab > VOCAB_MAX)
        return bg_fail(err, BG_INVALID, "a vocabulary of %u tokens: expected %d (bytes and <|endoftext|>) to %d", vocab,
                       VOCAB_MIN, VOCAB_MAX);
    t->tk = tokenizer_create("trained");
    t->tk->id_limit = vocab;
    tokenizer_set_byte_level(t->tk, true);
    bg_status status = split_step_init(&t->tk->splits[0], "training", err);
    for (unsigned b = 0; status == BG_OK && b < 256; b++)
        status = add_token(t->tk, &t->learner.texts, &(char){(char)b}, 1, err);
    t->splitter =
        (struct splitter){.steps = t->tk->splits, .count = 1, .name = "training", .fn = take_word, .arg = &t->learner};
    return status;
}

static bg_status training_learn(struct training *t, uint32_t vocab, struct bg_error *err)
{
    struct tokenizer *tk = t->tk;
    bg_status status = BG_OK;
    if (t->learner.unique.count == 0)
        return bg_fail(err, BG_FORMAT, "training a tokenizer: there is no text");
    start_counts(&t->learner);
    for (uint32_t round = 1; status == BG_OK && tk->pieces.count + 1 < vocab; round++) {
        int64_t chosen = best_pair(&t->learner);
        if (chosen < 0)
            break;
        status = learn(&t->learner, tk, (uint32_t)chosen, round, err);
    }
    if (status == BG_OK)
        status = tokenizer_add_special(tk, tk->pieces.count, "<|endoftext|>", err);
    return status == BG_OK ? tokenizer_finish(tk, err) : status;
}

static bg_status training_end(struct training *t, bg_status status, struct tokenizer **tokenizer)
{
    splitter_fini(&t->splitter);
    learner_fini(&t->learner);
    if (status != BG_OK)
        tokenizer_destroy(t->tk);
    else
        *tokenizer = t->tk;
    return status;
}

bg_status tokenizer_parse_train(const char *const *texts, const size_t *sizes, size_t count, uint32_t vocab,
                                struct bg_error *err, struct tokenizer **tokenizer)
{
    struct training t;
    bg_status status = training_start(&t, vocab, err);
    for (size_t i = 0; status == BG_OK && i < count; i++)
        status = split_run(&t.splitter, texts[i], sizes[i], err);
    if (status == BG_OK)
        status = training_learn(&t, vocab, err);
    return training_end(&t, status, tokenizer);
}

static bg_status take_piece(void *arg, const char *text, size_t size, bool first, struct bg_error *err)
{
    (void)first;
    struct training *t = arg;
    return split_run(&t->splitter, text, size, err);
}

static bg_status take_bytes(void *arg, const uint8_t *bytes, size_t size, uint64_t consumed, struct bg_error *err)
{
    (void)consumed;
    struct training *t = arg;
    return data_splitter_feed(t->documents, bytes, size, err);
}

static bg_status read_file(struct bg_env *env, struct training *t, const struct data_file *file, struct bg_error *err)
{
    struct bg_map map;
    bg_status status = env->ops->map_open(env, file->path, err, &map);
    if (status != BG_OK)
        return status;
    struct data_splitter documents = {
        .path = file->path, .jsonl = file->jsonl, .field = "text", .utf8 = "keep", .fn = take_piece, .arg = t};
    t->documents = &documents;
    status = data_unpack(file, map.data, map.size, take_bytes, t, err);
    if (status == BG_OK)
        status = data_splitter_end(&documents, err);
    data_splitter_fini(&documents);
    env->ops->map_close(env, &map);
    return status;
}

bg_status tokenizer_train(struct bg_env *env, const char *const *paths, size_t count, uint32_t vocab,
                          struct bg_error *err, struct tokenizer **tokenizer)
{
    struct training t;
    struct data_files files = {0};
    bg_status status = training_start(&t, vocab, err);
    if (status == BG_OK)
        status = data_files_list(env, paths, count, err, &files);
    for (size_t i = 0; status == BG_OK && i < files.count; i++)
        status = read_file(env, &t, &files.items[i], err);
    if (status == BG_OK)
        status = training_learn(&t, vocab, err);
    data_files_fini(&files);
    return training_end(&t, status, tokenizer);
}
