// Inside the room: the executor's memory. A stage owns its flights (stashes and inner boundaries), its boundary tensors
// and the slots of its tree; work memory and scratch are shared by all stages, since ops run one at a time.
#ifndef TRAIN_EXECUTOR_INT_H
#define TRAIN_EXECUTOR_INT_H

#include "train/executor.h"
#include "train/layout.h"

struct flight { // of an item between its F and its W
    uint8_t *memory;
    bool on_disk, here; // a file's; in memory as well
    bool taken;
    uint32_t item;
    uint32_t forward, backward; // slices whose F is done (the first ones), and whose B is (the last ones)
};

struct sparse_header { // of a block; ids follow
    uint32_t count, capacity;
    uint8_t zero[56];
};
struct slot {
    void *memory; // dense set, then a sparse block
    struct model_grad grad;
    struct sparse_header *header;
    bool given_out; // executor_part() named it: its bytes stay until executor_begin()
};

struct region { // a reservation that grows by being replaced
    void *memory;
    size_t bytes;
};

struct stage {
    uint32_t unit_first, unit_end;
    size_t *stash_at; // by unit of the stage, then of its input and of token losses: byte offset in a flight
    struct flight *flights;
    uint32_t flight_count;
    size_t flight_bytes;
    bool offload;
    struct region outputs, input_gradients; // (items) of boundary_bytes each
    struct tree_set set;                    // set.slots: those reserved
    struct slot slots[TREE_SLOTS_MAX];
    uint32_t items_done;
};

struct sum_part { // a checked part, by first micro-batch
    uint32_t first, end;
    const float *values;
    const int32_t *ids; // of a sparse block
    uint32_t count;
};

struct executor {
    struct bg_env *env;
    struct executor_options o;
    struct optim_state state;
    struct optim *optim;
    struct bg_philox_key dropout_key;

    // Seating.
    struct stage *stages[EXECUTOR_STAGES_MAX];
    uint32_t stage_count;
    struct tree_node *items;
    uint32_t item_count, group; // group: most micro-batches of an item
    uint32_t slices;            // at least 1
    bool split, recompute;
    uint8_t *holds;    // (units)
    bool *params_held; // (params)

    // Sizes.
    size_t set_bytes, sparse_bytes, boundary_bytes;
    uint32_t sparse_rows;

    // Memory of all stages.
    struct region work, scratch, evaluation;
    float *dx, *y, *unit_work; // y: a stage's output on its way
    int32_t *tokens, *targets;
    double *losses;
    void **lanes;           // (threads)
    struct region *retired; // what peers may still read: given back in executor_begin()
    uint32_t retired_count;

    // A step.
    uint64_t step;
    uint32_t loaded;   // item whose tokens lie in work memory, UINT32_MAX: none
    struct slot root;  // no memory where the state is the caller's
    struct slot spare; // gradients that nobody wants (executor_backward); reserved when first needed
    float *table;      // token table's gradient with the sparse rows joined in
    bool joined;
    uint32_t *pieces;       // (buckets + 2): first piece of each, the sparse one, and their number
    bool *rooted;           // (pieces)
    struct sum_part *parts; // (micro_batches)
    uint64_t *seen;         // (vocab) bits
};

// executor_memory.c
bg_status region_grow(struct executor *ex, struct region *region, size_t bytes, bool shared, struct bg_error *err);
void region_retire(struct executor *ex, struct region region);
void retired_release(struct executor *ex);
bg_status flight_add(struct executor *ex, struct stage *stage, struct bg_error *err);
void flight_use(struct executor *ex, struct flight *flight); // an op of it begins: of all on disk, it alone is here
bg_status slot_reserve(struct executor *ex, struct slot *slot, struct bg_error *err);
void slot_seal(struct slot *slot);  // the block is what the rows are: call it when they have changed
void slot_empty(struct slot *slot); // no rows, whatever lies there
// Before a slot is written: what was given out moves aside, and its sums come along where they are added to.
bg_status slot_prepare(struct executor *ex, struct stage *stage, size_t slot, bool keep, struct bg_error *err);
void stages_destroy(struct executor *ex, struct stage **stages, uint32_t count);

// executor_slices.c: between the group's layout (sequences, T, dim) and a slice of a boundary tensor.
struct model_run slice_run(const struct executor *ex, struct model_run run, uint32_t slice);
void slice_scatter(const struct executor *ex, uint32_t item, uint32_t slice, float *group, const float *boundary);
void slice_gather(const struct executor *ex, uint32_t item, uint32_t slice, float *boundary, const float *group);

// executor_sums.c
void sums_begin(struct executor *ex);
static inline struct model_bucket executor_range(const struct executor *ex, uint32_t bucket, uint32_t piece)
{
    struct model_bucket b = ex->o.model->buckets[bucket];
    uint64_t at = (uint64_t)piece * EXECUTOR_PIECE, left = b.floats - at;
    return (struct model_bucket){b.first + at, left < EXECUTOR_PIECE ? left : EXECUTOR_PIECE, b.unit};
}

static inline struct layout_options stage_shape(const struct executor *ex, uint32_t unit_first, uint32_t unit_end)
{
    return (struct layout_options){.unit_first = unit_first,
                                   .unit_end = unit_end,
                                   .batch = ex->o.batch,
                                   .length = ex->o.length,
                                   .slices = ex->slices,
                                   .micro_batches = ex->o.micro_batches};
}
static inline uint32_t item_first(const struct executor *ex, uint32_t item)
{
    return tree_node_first(ex->items[item]);
}
static inline uint32_t item_leaves(const struct executor *ex, uint32_t item)
{
    return tree_node_end(ex->items[item], ex->o.micro_batches) - item_first(ex, item);
}

#endif
