// The commit endpoint of one process. It holds every sum already, so REDUCED is nothing; COMMIT appends the loss to
// the curve and insists that steps come one after the other. The log on disk (steps.jsonl) follows behind: what it
// lacks after a crash is recomputed, bit for bit.
#include "train/commit.h"

static bg_status local_reduce(struct step_commit *commit, struct step_sums *sums, struct bg_error *err)
{
    const struct step_local *local = (const struct step_local *)commit;
    if (sums->step != local->steps)
        return bg_fail(err, BG_INTERNAL, "sums of step %llu arrived while step %llu is open",
                       (unsigned long long)sums->step, (unsigned long long)local->steps);
    return BG_OK;
}

static bg_status local_commit(struct step_commit *commit, const struct step_record *record, struct bg_error *err)
{
    struct step_local *local = (struct step_local *)commit;
    if (record->step != local->steps || local->steps == local->capacity)
        return bg_fail(err, BG_INTERNAL, "step %llu cannot be committed: the log holds %llu of at most %llu steps",
                       (unsigned long long)record->step, (unsigned long long)local->steps,
                       (unsigned long long)local->capacity);
    local->losses[local->steps++] = record->loss;
    return BG_OK;
}

void step_local_init(struct step_local *local, double *losses, uint64_t steps, uint64_t capacity)
{
    static const struct step_commit_ops ops = {.reduce = local_reduce, .commit = local_commit};
    *local = (struct step_local){.base.ops = &ops, .losses = losses, .steps = steps, .capacity = capacity};
}
