// The ops of a placement's schedule along their time, as SVG.
#ifndef PLAN_PLACEMENT_PICTURE_H
#define PLAN_PLACEMENT_PICTURE_H

#include "plan/schedule/distmm.h"

// A row a device, a box an op and device: <rect class="take|give|keep|wide"> by what it does to the memory of its
// device, or that it runs on several. bg_free it.
char *plan_placement_picture(const struct plan_placement *placement, const struct plan_batch_run *run,
                             const char *title);

#endif
