// A placement: what one micro-batch is made of and where it runs. Blocks have a span, memory that they take or give
// back, devices (a block on several runs on all of them at once) and blocks whose results they need. Tessel (Lin et
// al., "Tessel: Boosting Distributed Execution of Large DNN Models via Flexible Schedule Search", HPCA 2024) finds
// schedules for any of them (plan/schedule/tessel.h).
//
// Text, one record a line; blank lines and lines that begin with # are skipped, spaces may be many:
//   placement 1 devices D
//   block NAME span S memory M devices d,d,.. [after NAME,..]
// A block comes after those it needs. Spans are at least 1, memory may be negative (and is 0 where the words are left
// out): it changes when the block starts, on each of its devices. On a device a micro-batch gives back what it took.
#ifndef PLAN_PLACEMENT_H
#define PLAN_PLACEMENT_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

#define PLAN_BLOCKS_MAX     128
#define PLAN_DEVICES_MAX    64
#define PLAN_BLOCK_SPAN_MAX 1000000 // of memory as well, either way
enum { PLAN_BLOCK_NAME_MAX = 32 };  // with the NUL

struct plan_block {
    char name[PLAN_BLOCK_NAME_MAX];
    uint32_t span;
    int32_t memory;
    uint64_t devices; // bit d
    uint32_t *needs;  // indices of blocks, lower than its own
    uint32_t need_count;
};
struct plan_placement {
    struct plan_block *blocks;
    uint32_t block_count, devices;
};

// `text` need not end in a NUL. Errors begin with the line; callers put the file's name before them.
BG_MUST_USE bg_status plan_placement_parse(const char *text, size_t size, struct bg_error *err,
                                           struct plan_placement *placement);
char *plan_placement_format(const struct plan_placement *placement); // bg_free it
void plan_placement_fini(struct plan_placement *placement);

// Adds a block, which needs the `need_count` blocks at `needs`; returns its index. Nothing is checked.
uint32_t plan_placement_add(struct plan_placement *placement, const struct plan_block *block, const uint32_t *needs,
                            uint32_t need_count);
// A placement has a block on each device, names that differ, and all that the text promises. BG_INVALID otherwise.
BG_MUST_USE bg_status plan_placement_check(const struct plan_placement *placement, struct bg_error *err);

// The placements of Tessel's evaluation, forward spans 1 and backward spans 3 unless said otherwise:
//   vshape  f0 .. fD-1, bD-1 .. b0: the pipeline
//   xshape  two pipelines, one each way (Chimera); D even
//   mshape  a vshape between two blocks of span 1 on all devices (an embedding that is spread out)
//   nnshape an mshape with such blocks in the middle of both ways as well (encoder and decoder embeddings)
//   kshape  two pipelines of D/2 devices each that meet in blocks of span 1 on all devices (a contrastive loss); D even
//   mllm    a vshape with blocks on all devices at its beginning, turn and end
//   finetune   a vshape, backward spans 2, behind a block on all devices that has no backward
//   alphafold  three forward passes over the devices and one backward pass of span 1
BG_MUST_USE bg_status plan_placement_shape(const char *name, uint32_t devices, struct bg_error *err,
                                           struct plan_placement *placement);
const char *plan_placement_shape_name(size_t index); // NULL behind the last

#endif
