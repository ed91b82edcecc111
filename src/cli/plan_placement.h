// What the two ways to order the blocks of a placement share: a repetend (plan_placement.c), batch sync
// (plan_placement_sync.c).
#ifndef CLI_PLAN_PLACEMENT_H
#define CLI_PLAN_PLACEMENT_H

#include "cli/cli.h"
#include "plan/schedule/distmm.h"

struct placement_request {
    const char *placement, *schedule, *svg;
    const char *sync; // "BLOCK,..[:RANGE]", NULL: a repetend
    uint32_t devices, stages, micro_batches, in_flight, memory, comm;
    uint32_t forward, backward; // spans of a shape's blocks that are on one device; 0: the shape's
};

json_t *cli_placement_devices(const struct plan_placement *placement, uint32_t block);
bg_status cli_placement_svg(struct cli *cli, const struct placement_request *request,
                            const struct plan_placement *placement, const struct plan_batch_run *run,
                            struct bg_error *err);
// Orders, prints and draws.
bg_status cli_placement_sync(struct cli *cli, const struct placement_request *request,
                             const struct plan_placement *placement, struct bg_error *err);

#endif
