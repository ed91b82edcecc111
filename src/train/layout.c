// Cutting a step into groups. A group is a node of the canonical tree, so all its gradients come out as that node's
// value; larger groups need more activations, smaller ones more gradient slots. Auto tries every power of two and
// takes the one with the least memory, preferring larger groups (fewer, larger matrix products) on near ties.
#include "train/layout.h"

#include "base/mem.h"
#include "train/evaluate.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define TOKENS_MAX ((uint64_t)1 << 31)

enum { SLACK_BYTES = 64 << 20 };

static size_t aligned(size_t bytes)
{
    return (bytes + 63) & ~(size_t)63;
}

static uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

// Fisher-Yates with counted randomness: the same seed gives the same order everywhere.
static void shuffle(struct tree_node *order, size_t count, uint64_t seed)
{
    struct bg_philox_key key = bg_philox_key(seed, BG_STREAM_SAMPLING);
    for (size_t i = count; i > 1; i--) {
        struct bg_philox_counter words = bg_philox((struct bg_philox_counter){{(uint32_t)i, 0, 0, 0}}, key);
        size_t j = words.c[0] % i;
        struct tree_node other = order[j];
        order[j] = order[i - 1];
        order[i - 1] = other;
    }
}

static bg_status arrange(struct tree_node *order, size_t count, const char *how, struct bg_error *err)
{
    if (!how || strcmp(how, "ascending") == 0)
        return BG_OK;
    if (strcmp(how, "descending") == 0) {
        for (size_t i = 0; i < count / 2; i++) {
            struct tree_node other = order[i];
            order[i] = order[count - 1 - i];
            order[count - 1 - i] = other;
        }
        return BG_OK;
    }
    if (strncmp(how, "shuffle:", 8) == 0) {
        char *end = NULL;
        errno = 0;
        unsigned long long seed = strtoull(how + 8, &end, 10);
        if (how[8] >= '0' && how[8] <= '9' && *end == '\0' && errno == 0) {
            shuffle(order, count, seed);
            return BG_OK;
        }
    }
    return bg_fail(err, BG_INVALID, "run.order: \"%s\" is not ascending, descending or shuffle:SEED", how);
}

static size_t rows_of(const struct layout_options *o, uint32_t count)
{
    return (size_t)count * o->batch * o->length;
}

size_t layout_boundary_bytes(const struct model *model, const struct layout_options *o, uint32_t count)
{
    return aligned(rows_of(o, count) * model->config.dim * 4);
}

size_t layout_flight_bytes(const struct model *model, const struct layout_options *o, uint32_t count, bool split,
                           size_t *at)
{
    const uint32_t units = o->unit_end - o->unit_first;
    const bool sliced = o->slices > 1;
    const enum model_stash kind = sliced ? MODEL_STASH_SLICES : split ? MODEL_STASH_SPLIT : MODEL_STASH_WHOLE;
    size_t bytes = (units - 1) * layout_boundary_bytes(model, o, count);
    for (uint32_t u = 0; u < units; u++) {
        if (at)
            at[u] = bytes;
        bytes += aligned(model_stash_floats(model, o->unit_first + u, o->batch, o->length, count, kind, true) * 4);
    }
    if (at) {
        at[units] = bytes;
        at[units + 1] = bytes + (sliced && o->unit_first > 0 ? layout_boundary_bytes(model, o, count) : 0);
    }
    if (sliced && o->unit_first > 0)
        bytes += layout_boundary_bytes(model, o, count);
    if (sliced && o->unit_end == model->unit_count)
        bytes += aligned(rows_of(o, count) * sizeof(double));
    return bytes;
}

// A stage's last output, dx, units' work, then tokens, targets and losses.
size_t layout_work_bytes(const struct model *model, const struct layout_options *o, uint32_t count)
{
    size_t rows = rows_of(o, count);
    return 2 * layout_boundary_bytes(model, o, count) +
           aligned(model_work_floats(model, o->batch, o->length, count, true) * 4) + 2 * aligned(rows * 4) +
           aligned(rows * 8);
}

uint32_t layout_sparse_rows(const struct model *model, const struct layout_options *o)
{
    uint64_t tokens = (uint64_t)o->micro_batches * o->batch * o->length;
    return tokens < model->config.vocab ? (uint32_t)tokens : model->config.vocab;
}

size_t layout_sparse_bytes(const struct model *model, const struct layout_options *o)
{
    size_t rows = layout_sparse_rows(model, o);
    return 64 + aligned(rows * 4) + aligned(rows * model->config.dim * 4);
}

uint32_t layout_evaluate_sequences(const struct model *model, uint32_t length, size_t flight_bytes)
{
    uint32_t sequences = min_u32(1 + 2047 / length, 64);
    while (sequences > 1 && evaluate_bytes(model, length, sequences) > flight_bytes)
        sequences /= 2;
    return sequences;
}

size_t layout_scratch_bytes(const struct model *model, const struct kern *kern, const struct layout_options *o,
                            uint32_t count)
{
    uint32_t windows = min_u32(1 + 2047 / o->length, 64);
    size_t bytes = model_scratch_bytes(model, kern, o->batch, o->length, count, true);
    for (; windows > 0; windows /= 2) // of every number of them that an evaluation may take
        bytes = larger(bytes, model_scratch_bytes(model, kern, 1, o->length, windows, false));
    size_t sum = larger(LAYOUT_SUM_FLOATS, model->config.dim) * 4; // a sum on every level of the tree
    return aligned(larger(bytes, tree_node_root(o->micro_batches).level * sum));
}

// Sizes for groups of 2^level micro-batches.
static bg_status measure(const struct model *model, const struct kern *kern, unsigned threads,
                         const struct layout_options *o, uint32_t level, struct bg_error *err, struct layout *layout)
{
    uint64_t width = (uint64_t)1 << level;
    uint32_t group = (uint32_t)(width < o->micro_batches ? width : o->micro_batches);
    struct layout l = {.unit_first = o->unit_first,
                       .unit_end = o->unit_end,
                       .batch = o->batch,
                       .length = o->length,
                       .micro_batches = o->micro_batches,
                       .group = group,
                       .groups = (size_t)((o->micro_batches + width - 1) / width)};
    l.order = bg_alloc_array(l.groups, sizeof *l.order);
    for (size_t i = 0; i < l.groups; i++)
        l.order[i] = (struct tree_node){level, (uint32_t)i};
    bg_status status = arrange(l.order, l.groups, o->order, err);
    if (status) {
        bg_free(l.order);
        return status;
    }
    l.slots = tree_slots(l.order, l.groups, o->micro_batches);

    size_t flight = layout_flight_bytes(model, o, group, false, NULL);
    l.evaluate_sequences = layout_evaluate_sequences(model, o->length, flight);
    size_t evaluate = evaluate_bytes(model, o->length, l.evaluate_sequences);
    l.bytes = flight + layout_work_bytes(model, o, group) + (evaluate > flight ? evaluate : 0) +
              l.slots * (aligned(model->floats * 4) + layout_sparse_bytes(model, o)) +
              threads * layout_scratch_bytes(model, kern, o, group);
    *layout = l;
    return BG_OK;
}

bg_status layout_create(const struct model *model, const struct kern *kern, unsigned threads,
                        const struct layout_options *o, struct bg_error *err, struct layout *layout)
{
    if (o->group & (o->group - 1))
        return bg_fail(err, BG_INVALID, "run.group: %u is not a power of two (1, 2, 4, ...; 0 chooses)", o->group);
    uint32_t root = tree_node_root(o->micro_batches).level;
    uint32_t first = 0, last = root;
    if (o->group > 0) {
        first = (uint32_t)__builtin_ctz(o->group);
        first = last = first < root ? first : root;
    }
    // Beyond this no machine has the memory, and below it no size overflows.
    uint64_t tokens = (uint64_t)o->batch * o->length;
    while (last > first && tokens << last > TOKENS_MAX)
        last--;
    if (tokens << last > TOKENS_MAX)
        return bg_fail(err, BG_INVALID,
                       "a group of %llu tokens is more than fits (at most %llu): use a smaller train.micro_batch, "
                       "model.context or run.group",
                       (unsigned long long)tokens << last, (unsigned long long)TOKENS_MAX);
    struct layout best = {0};
    for (uint32_t level = first; level <= last; level++) {
        struct layout next;
        bg_status status = measure(model, kern, threads, o, level, err, &next);
        if (status) {
            layout_fini(&best);
            return status;
        }
        // Larger matrix products and fewer meetings of the lanes are worth some memory.
        size_t slack = best.bytes / 16 > SLACK_BYTES ? best.bytes / 16 : SLACK_BYTES;
        bool better = !best.order || best.slots == 0 || (next.slots > 0 && next.bytes <= best.bytes + slack);
        layout_fini(better ? &best : &next);
        if (better)
            best = next;
    }
    if (best.slots == 0) {
        layout_fini(&best);
        return bg_fail(err, BG_INVALID,
                       "run.order \"%s\" would hold more than %d partial gradients at once: use a larger run.group",
                       o->order ? o->order : "ascending", TREE_SLOTS_MAX);
    }
    *layout = best;
    return BG_OK;
}

void layout_fini(struct layout *layout)
{
    bg_free(layout->order);
    layout->order = NULL;
}

// Matmul weights of all units of one kind.
static double matmul_weights(const struct model *model, enum model_unit_kind kind)
{
    double weights = 0;
    for (uint32_t p = 0; p < model->param_count; p++) {
        const struct model_param *param = &model->params[p];
        if (param->rank == 2 && model->units[param->unit].kind == kind)
            weights += (double)param->count;
    }
    return weights;
}

double layout_flops_block(const struct model *model, uint64_t sequences, uint32_t length)
{
    const struct model_config *c = &model->config;
    double t = length, weights = matmul_weights(model, MODEL_UNIT_BLOCK) / c->layers;
    double attention = 6.0 * t * t * c->heads * c->head_dim; // forward 2 T^2 D (causal), backward twice that
    return (double)sequences * (6.0 * weights * t + attention);
}

double layout_flops(const struct model *model, uint64_t sequences, uint32_t length)
{
    const struct model_config *c = &model->config;
    double head = c->tie ? (double)c->vocab * c->dim : matmul_weights(model, MODEL_UNIT_HEAD);
    return layout_flops_block(model, sequences, length) * c->layers + (double)sequences * length * 6.0 * head;
}
