// Sums on their way to the root and what is done with it. A piece of the root is evaluated straight from the parts,
// wherever they lie: every element is added in exactly the tree's order (NUMERICS 9), with one temporary a level. Parts
// may lie in another process: what they say about themselves is checked, and used at most as a bound.
#include "train/executor_int.h"

#include "base/assert.h"

#include <string.h>

enum { GRAIN_IDS = 16 };

// ---- What is where ----

static bool range_same(struct tree_node a, struct tree_node b, uint32_t leaves)
{
    return tree_node_first(a) == tree_node_first(b) && tree_node_end(a, leaves) == tree_node_end(b, leaves);
}

size_t executor_nodes(const struct executor *ex, uint32_t stage, struct tree_node nodes[TREE_SLOTS_MAX])
{
    BG_ASSERT(stage < ex->stage_count);
    const struct tree_set *set = &ex->stages[stage]->set;
    size_t count = 0;
    for (size_t i = 0; i < set->slots; i++) {
        if (set->held[i])
            nodes[count++] = set->node[i];
    }
    return count;
}

uint32_t executor_pieces(const struct executor *ex, uint32_t bucket)
{
    if (bucket == EXECUTOR_SPARSE)
        return 1;
    return (uint32_t)((ex->o.model->buckets[bucket].floats + EXECUTOR_PIECE - 1) / EXECUTOR_PIECE);
}

static struct executor_part part_at(const struct executor *ex, const struct slot *slot, uint32_t bucket, uint32_t piece,
                                    struct tree_node node)
{
    if (bucket == EXECUTOR_SPARSE) {
        const uint8_t *block = (const uint8_t *)slot->header, *rows = (const uint8_t *)slot->grad.embed.rows;
        size_t bytes = (size_t)slot->grad.embed.count * ex->o.model->config.dim * sizeof(float);
        return (struct executor_part){node, (const float *)(const void *)block, (size_t)(rows - block) + bytes};
    }
    BG_ASSERT(piece < executor_pieces(ex, bucket));
    struct model_bucket range = executor_range(ex, bucket, piece);
    return (struct executor_part){node, slot->grad.dense + range.first, (size_t)range.floats * sizeof(float)};
}

struct executor_part executor_part(const struct executor *ex, uint32_t stage, uint32_t bucket, uint32_t piece,
                                   struct tree_node node)
{
    BG_ASSERT(stage < ex->stage_count);
    struct stage *s = ex->stages[stage];
    for (size_t i = 0; i < s->set.slots; i++) {
        if (s->set.held[i] && range_same(s->set.node[i], node, ex->o.micro_batches)) {
            s->slots[i].given_out = true;
            return part_at(ex, &s->slots[i], bucket, piece, node);
        }
    }
    return (struct executor_part){.node = node};
}

uint32_t executor_bucket_stage(const struct executor *ex, uint32_t bucket)
{
    const struct model *model = ex->o.model;
    if (bucket != EXECUTOR_SPARSE && !model_bucket_dense(model, bucket))
        return UINT32_MAX;
    uint32_t unit = bucket == EXECUTOR_SPARSE ? 0 : model->buckets[bucket].unit;
    for (uint32_t s = 0; s < ex->stage_count; s++) {
        if (unit >= ex->stages[s]->unit_first && unit < ex->stages[s]->unit_end)
            return s;
    }
    return UINT32_MAX;
}

bool executor_needs(const struct model *model, const uint8_t *holds, uint32_t bucket)
{
    bool table = holds[0] || (model->config.tie && holds[model->unit_count - 1]);
    if (bucket == EXECUTOR_SPARSE)
        return table;
    if (bucket == 0)
        return model->config.tie && table;
    return holds[bucket - 1];
}

// ---- The root's pieces ----

static bool *rooted_at(const struct executor *ex, uint32_t bucket, uint32_t piece)
{
    BG_ASSERT(piece < executor_pieces(ex, bucket));
    return &ex->rooted[ex->pieces[bucket == EXECUTOR_SPARSE ? ex->o.model->bucket_count : bucket] + piece];
}

bool executor_root_held(const struct executor *ex, uint32_t bucket, uint32_t piece)
{
    return *rooted_at(ex, bucket, piece);
}

static uint32_t missing_of(const struct executor *ex, uint32_t bucket)
{
    uint32_t missing = 0;
    for (uint32_t p = 0; p < executor_pieces(ex, bucket); p++)
        missing += !*rooted_at(ex, bucket, p);
    return missing;
}

uint32_t executor_roots_missing(const struct executor *ex)
{
    const struct model *model = ex->o.model;
    uint32_t missing = executor_needs(model, ex->holds, EXECUTOR_SPARSE) ? missing_of(ex, EXECUTOR_SPARSE) : 0;
    for (uint32_t b = 0; b < model->bucket_count; b++) {
        if (executor_needs(model, ex->holds, b))
            missing += missing_of(ex, b);
    }
    return missing;
}

const float *executor_root(const struct executor *ex)
{
    return ex->root.grad.dense;
}

struct executor_part executor_root_part(const struct executor *ex, uint32_t bucket, uint32_t piece)
{
    struct tree_node root = tree_node_root(ex->o.micro_batches);
    BG_ASSERT(!ex->o.state);
    return *rooted_at(ex, bucket, piece) ? part_at(ex, &ex->root, bucket, piece, root)
                                         : (struct executor_part){.node = root};
}

void sums_begin(struct executor *ex)
{
    const struct model *model = ex->o.model;
    size_t dim = model->config.dim;
    if (ex->joined && !ex->o.state && !model->config.tie) { // the table is zero but for the rows of one step
        for (uint32_t i = 0; i < ex->root.grad.embed.count; i++)
            memset(ex->table + (size_t)ex->root.grad.embed.ids[i] * dim, 0, dim * sizeof(float));
    }
    if (ex->o.state)
        ex->root = (struct slot){0};
    ex->joined = false;
    memset(ex->rooted, 0, ex->pieces[model->bucket_count + 1] * sizeof *ex->rooted);
}

// ---- Checking parts ----

static bg_status fail_part(struct bg_error *err, uint32_t bucket, uint32_t piece, const char *what)
{
    if (bucket == EXECUTOR_SPARSE)
        return bg_fail(err, BG_CORRUPT, "rows of the token embedding: %s", what);
    return bg_fail(err, BG_CORRUPT, "bucket %u, piece %u: %s", bucket, piece, what);
}

// A block of `bytes` as it was sent: where its ids and rows are. Ids are checked by whoever reads them.
static bg_status open_block(const struct executor *ex, const void *bytes, size_t size, struct bg_error *err,
                            struct sum_part *block)
{
    struct sparse_header header;
    if (size < sizeof header)
        return fail_part(err, EXECUTOR_SPARSE, 0, "shorter than its header");
    memcpy(&header, bytes, sizeof header);
    size_t ids = ((size_t)header.capacity * 4 + 63) & ~(size_t)63;
    if (header.capacity != ex->sparse_rows || header.count > header.capacity ||
        size != sizeof header + ids + (size_t)header.count * ex->o.model->config.dim * sizeof(float))
        return fail_part(err, EXECUTOR_SPARSE, 0, "count, capacity and size do not agree");
    const uint8_t *at = bytes;
    block->ids = (const int32_t *)(const void *)(at + sizeof header);
    block->values = (const float *)(const void *)(at + sizeof header + ids);
    block->count = header.count;
    return BG_OK;
}

// Takes the parts, ordered by first micro-batch, into ex->parts.
static bg_status take_parts(struct executor *ex, uint32_t bucket, uint32_t piece, const struct executor_part *parts,
                            size_t count, struct bg_error *err)
{
    uint32_t leaves = ex->o.micro_batches, top = tree_node_root(leaves).level;
    if (count > leaves)
        return bg_fail(err, BG_INVALID, "%zu parts of a step of %u micro-batches", count, leaves);
    for (size_t i = 0; i < count; i++) {
        struct tree_node node = parts[i].node;
        if (node.level > top || (uint64_t)node.index << node.level >= leaves)
            return bg_fail(err, BG_INVALID, "node (level %u, index %u) lies outside a tree of %u leaves", node.level,
                           node.index, leaves);
        struct sum_part part = {tree_node_first(node), tree_node_end(node, leaves), parts[i].values, NULL, 0};
        if (bucket == EXECUTOR_SPARSE) {
            bg_status status = open_block(ex, parts[i].values, parts[i].bytes, err, &part);
            if (status)
                return status;
        } else if (parts[i].bytes != executor_range(ex, bucket, piece).floats * sizeof(float)) {
            return fail_part(err, bucket, piece, "a part of another size");
        }
        size_t at = i;
        for (; at > 0 && ex->parts[at - 1].first > part.first; at--)
            ex->parts[at] = ex->parts[at - 1];
        ex->parts[at] = part;
    }
    uint32_t next = 0;
    for (size_t i = 0; i <= count; i++) {
        uint32_t first = i < count ? ex->parts[i].first : leaves;
        if (first < next)
            return bg_fail(err, BG_INVALID, "bucket %u, piece %u: micro-batches %u..%u are in two parts", bucket, piece,
                           first, (ex->parts[i].end < next ? ex->parts[i].end : next) - 1);
        if (first > next)
            return bg_fail(err, BG_INVALID, "bucket %u, piece %u: micro-batches %u..%u are in no part", bucket, piece,
                           next, first - 1);
        next = i < count ? ex->parts[i].end : next;
    }
    return BG_OK;
}

// ---- Evaluating the tree ----

struct reduction {
    const struct executor *ex;
    size_t floats; // of the piece, or of a row
    float *out;
    const struct model_sparse *rows; // of EXECUTOR_SPARSE: ids are known, rows are made
};
struct evaluation {
    const struct reduction *r;
    size_t part;     // next one
    size_t first, n; // floats of a dense piece
    int32_t id;      // of a row
    float *held;     // one temporary a level
    size_t stride;
};

static const float *row_of(const struct sum_part *part, int32_t id, size_t dim)
{
    uint32_t low = 0, high = part->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        int32_t there = part->ids[middle];
        if (there == id)
            return part->values + middle * dim;
        if (there < id)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

// The node's value: where a part lies, or `out`; NULL: absent. `out` is not one of the temporaries below the level.
static const float *node_value(struct evaluation *e, struct tree_node node, float *out)
{
    const struct executor *ex = e->r->ex;
    const struct sum_part *part = &ex->parts[e->part];
    uint32_t leaves = ex->o.micro_batches;
    if (part->first == tree_node_first(node) && part->end == tree_node_end(node, leaves)) {
        e->part++;
        return part->ids ? row_of(part, e->id, e->n) : part->values + e->first;
    }
    struct tree_node below = {node.level - 1, node.index * 2}, beside = {node.level - 1, node.index * 2 + 1};
    const float *left = node_value(e, below, out);
    if ((uint64_t)beside.index << beside.level >= leaves)
        return left;
    const float *right = node_value(e, beside, left ? e->held + below.level * e->stride : out);
    if (left && right)
        ex->o.kern->add(out, left, right, e->n);
    return left && right ? out : left ? left : right;
}

static void piece_item(void *arg, size_t index, unsigned lane)
{
    const struct reduction *r = arg;
    size_t first = index * LAYOUT_SUM_FLOATS, left = r->floats - first;
    struct evaluation e = {.r = r,
                           .first = first,
                           .n = left < LAYOUT_SUM_FLOATS ? left : LAYOUT_SUM_FLOATS,
                           .held = r->ex->lanes[lane],
                           .stride = LAYOUT_SUM_FLOATS};
    float *out = r->out + first;
    const float *value = node_value(&e, tree_node_root(r->ex->o.micro_batches), out);
    if (value != out)
        memcpy(out, value, e.n * sizeof *out);
}

static void rows_item(void *arg, size_t index, unsigned lane)
{
    const struct reduction *r = arg;
    size_t first = index * GRAIN_IDS, end = first + GRAIN_IDS < r->rows->count ? first + GRAIN_IDS : r->rows->count;
    for (size_t i = first; i < end; i++) {
        struct evaluation e = {
            .r = r, .n = r->floats, .id = r->rows->ids[i], .held = r->ex->lanes[lane], .stride = r->floats};
        float *out = r->out + i * r->floats;
        const float *value = node_value(&e, tree_node_root(r->ex->o.micro_batches), out);
        if (!value) // only where somebody else wrote into a part meanwhile
            memset(out, 0, r->floats * sizeof *out);
        else if (value != out)
            memcpy(out, value, r->floats * sizeof *out);
    }
}

// The union of the parts' ids, ascending.
static bg_status unite_ids(struct executor *ex, size_t count, struct model_sparse *rows, struct bg_error *err)
{
    size_t vocab = ex->o.model->config.vocab, words = (vocab + 63) / 64;
    memset(ex->seen, 0, words * sizeof *ex->seen);
    for (size_t p = 0; p < count; p++) {
        int32_t before = -1;
        for (uint32_t i = 0; i < ex->parts[p].count; i++) {
            int32_t id = ex->parts[p].ids[i];
            if (id <= before || (size_t)id >= vocab)
                return fail_part(err, EXECUTOR_SPARSE, 0, "ids do not ascend below the vocabulary's size");
            ex->seen[id / 64] |= (uint64_t)1 << (id % 64);
            before = id;
        }
    }
    rows->count = 0;
    for (size_t w = 0; w < words; w++) {
        for (uint64_t bits = ex->seen[w]; bits; bits &= bits - 1) {
            if (rows->count == rows->capacity)
                return fail_part(err, EXECUTOR_SPARSE, 0, "more rows than the step has tokens");
            rows->ids[rows->count++] = (int32_t)(w * 64) + __builtin_ctzll(bits);
        }
    }
    return BG_OK;
}

bg_status executor_reduce(struct executor *ex, uint32_t bucket, uint32_t piece, const struct executor_part *parts,
                          size_t count, struct bg_error *err, struct executor_part *root)
{
    BG_ASSERT(!ex->o.state);
    bool *rooted = rooted_at(ex, bucket, piece);
    if (!*rooted) {
        bg_status status = take_parts(ex, bucket, piece, parts, count, err);
        if (!status && bucket == EXECUTOR_SPARSE) {
            status = unite_ids(ex, count, &ex->root.grad.embed, err);
            if (status)
                slot_empty(&ex->root);
        }
        if (status)
            return status;
        struct reduction r = {.ex = ex, .floats = ex->o.model->config.dim};
        if (bucket == EXECUTOR_SPARSE) {
            r.rows = &ex->root.grad.embed;
            r.out = r.rows->rows;
            env_parallel_for(ex->env, (r.rows->count + GRAIN_IDS - 1) / GRAIN_IDS, rows_item, &r);
            slot_seal(&ex->root);
        } else {
            struct model_bucket range = executor_range(ex, bucket, piece);
            r.floats = (size_t)range.floats;
            r.out = ex->root.grad.dense + range.first;
            env_parallel_for(ex->env, (r.floats + LAYOUT_SUM_FLOATS - 1) / LAYOUT_SUM_FLOATS, piece_item, &r);
        }
        *rooted = true;
    }
    *root = executor_root_part(ex, bucket, piece);
    return BG_OK;
}

// ---- Roots that others reduced ----

static bg_status set_rows(struct executor *ex, const void *bytes, size_t size, struct bg_error *err)
{
    struct sum_part block;
    struct model_sparse *rows = &ex->root.grad.embed;
    bg_status status = open_block(ex, bytes, size, err, &block);
    if (status)
        return status;
    memcpy(rows->ids, block.ids, block.count * sizeof *rows->ids);
    for (uint32_t i = 0; i < block.count; i++) { // ours: nobody else writes it
        if (rows->ids[i] < 0 || (i > 0 && rows->ids[i] <= rows->ids[i - 1]) ||
            (uint32_t)rows->ids[i] >= ex->o.model->config.vocab) {
            slot_empty(&ex->root);
            return fail_part(err, EXECUTOR_SPARSE, 0, "ids do not ascend below the vocabulary's size");
        }
    }
    memcpy(rows->rows, block.values, (size_t)block.count * ex->o.model->config.dim * sizeof(float));
    rows->count = block.count;
    slot_seal(&ex->root);
    return BG_OK;
}

bg_status executor_set_root(struct executor *ex, uint32_t bucket, uint32_t piece, const void *bytes, size_t size,
                            struct bg_error *err)
{
    BG_ASSERT(!ex->o.state);
    bool *rooted = rooted_at(ex, bucket, piece);
    bg_status status = BG_OK;
    if (*rooted) {
        struct executor_part ours = executor_root_part(ex, bucket, piece);
        if (size != ours.bytes || memcmp(bytes, ours.values, size) != 0)
            return fail_part(err, bucket, piece,
                             "two roots of one step differ: a worker computes or sends wrong values");
        return BG_OK;
    }
    if (bucket == EXECUTOR_SPARSE) {
        status = set_rows(ex, bytes, size, err);
    } else {
        struct model_bucket range = executor_range(ex, bucket, piece);
        if (size != range.floats * sizeof(float))
            return fail_part(err, bucket, piece, "a root of another size");
        memcpy(ex->root.grad.dense + range.first, bytes, size);
    }
    *rooted = !status;
    return status;
}

void executor_adopt_root(struct executor *ex)
{
    BG_ASSERT(ex->o.state && ex->stage_count == 1);
    size_t slot = 0;
    BG_ASSERT(tree_set_root(&ex->stages[0]->set, &slot));
    ex->root = ex->stages[0]->slots[slot];
    ex->table = ex->root.grad.dense + ex->o.model->buckets[0].first;
    memset(ex->rooted, 1, ex->pieces[ex->o.model->bucket_count + 1] * sizeof *ex->rooted);
}

// ---- Squares and the step ----

struct table_copy {
    float *to;
    const float *from;
    size_t floats;
};

static void table_item(void *arg, size_t index, unsigned lane)
{
    const struct table_copy *c = arg;
    size_t first = index * EXECUTOR_PIECE, left = c->floats - first;
    (void)lane;
    memcpy(c->to + first, c->from + first, (left < EXECUTOR_PIECE ? left : EXECUTOR_PIECE) * sizeof *c->to);
}

// The token table's gradient with its rows. Roots that peers may read stay as they are.
static void join(struct executor *ex)
{
    const struct model *model = ex->o.model;
    if (ex->joined || !executor_needs(model, ex->holds, EXECUTOR_SPARSE))
        return;
    ex->joined = true;
    if (ex->o.state) {
        model_grad_finish(model, &ex->root.grad);
        return;
    }
    struct table_copy copy = {ex->table, ex->root.grad.dense + model->buckets[0].first, model->buckets[0].floats};
    if (model->config.tie)
        env_parallel_for(ex->env, executor_pieces(ex, 0), table_item, &copy);
    model_table_join(model, ex->table, &ex->root.grad.embed);
}

void executor_squares(struct executor *ex, double *squares)
{
    BG_ASSERT(executor_roots_missing(ex) == 0);
    join(ex);
    optim_squares(ex->optim, &(struct optim_gradient){ex->root.grad.dense, ex->table}, squares);
}

bool executor_holds_param(const struct executor *ex, uint32_t param)
{
    return ex->params_held[param];
}

void executor_apply(struct executor *ex, uint64_t step, double lr, float clip)
{
    BG_ASSERT(executor_roots_missing(ex) == 0);
    join(ex);
    optim_apply(ex->optim, &ex->state, &(struct optim_gradient){ex->root.grad.dense, ex->table}, step, lr, clip);
}

float *executor_state_piece(struct executor *ex, uint32_t which, uint32_t bucket, uint32_t piece, size_t *floats)
{
    float *const sets[] = {ex->state.weights, ex->state.m, ex->state.v};
    BG_ASSERT(which < 3 && bucket < ex->o.model->bucket_count && piece < executor_pieces(ex, bucket));
    struct model_bucket range = executor_range(ex, bucket, piece);
    *floats = (size_t)range.floats;
    return sets[which] + range.first;
}
