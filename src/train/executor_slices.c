// Slices of sequences: their positions, where they lie in a boundary tensor, and the way between there and the layout
// that units compute in, which is the whole group's (model.h).
#include "train/executor_int.h"

#include "base/assert.h"
#include "plan/plan.h"

#include <string.h>

struct positions {
    uint32_t first, count;
};

static struct positions positions_of(const struct executor *ex, uint32_t slice)
{
    uint32_t first = 0, end = ex->o.length;
    if (slice != EXECUTOR_WHOLE) {
        BG_ASSERT(slice < ex->slices);
        plan_slice_positions(ex->o.length, ex->slices, slice, &first, &end);
    }
    return (struct positions){first, end - first};
}

struct model_run slice_run(const struct executor *ex, struct model_run run, uint32_t slice)
{
    struct positions at = positions_of(ex, slice);
    run.position = at.first;
    run.positions = at.count;
    return run;
}

static size_t sequences_of(const struct executor *ex, uint32_t item)
{
    return (size_t)item_leaves(ex, item) * ex->o.batch;
}

size_t executor_boundary_bytes(const struct executor *ex, uint32_t item, uint32_t slice)
{
    return sequences_of(ex, item) * positions_of(ex, slice).count * ex->o.model->config.dim * sizeof(float);
}

size_t executor_slice_offset(const struct executor *ex, uint32_t item, uint32_t slice)
{
    return sequences_of(ex, item) * positions_of(ex, slice).first * ex->o.model->config.dim * sizeof(float);
}

void slice_scatter(const struct executor *ex, uint32_t item, uint32_t slice, float *group, const float *boundary)
{
    const size_t dim = ex->o.model->config.dim;
    const struct positions at = positions_of(ex, slice);
    for (size_t s = 0; s < sequences_of(ex, item); s++)
        memcpy(group + (s * ex->o.length + at.first) * dim, boundary + s * at.count * dim,
               at.count * dim * sizeof *group);
}

void slice_gather(const struct executor *ex, uint32_t item, uint32_t slice, float *boundary, const float *group)
{
    const size_t dim = ex->o.model->config.dim;
    const struct positions at = positions_of(ex, slice);
    for (size_t s = 0; s < sequences_of(ex, item); s++)
        memcpy(boundary + s * at.count * dim, group + (s * ex->o.length + at.first) * dim,
               at.count * dim * sizeof *group);
}
