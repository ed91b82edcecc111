// Shapes and cuts: how many workers each stage gets, and which units.
#include "plan/plan.h"

#include "base/mem.h"
#include "plan/plan_int.h"

#include <string.h>

uint32_t plan_number(const char **text, uint32_t max)
{
    uint64_t value = 0;
    const char *at = *text;
    while (*at >= '0' && *at <= '9' && value <= max)
        value = value * 10 + (uint64_t)(*at++ - '0');
    *text = at;
    return value <= max ? (uint32_t)value : 0;
}

bg_status plan_shape_parse(const char *text, struct bg_error *err, uint32_t replicas[PLAN_STAGES_MAX], uint32_t *stages)
{
    const char *at = text;
    uint32_t found[PLAN_STAGES_MAX], count = 0, total = 0, first = plan_number(&at, PLAN_WORKERS_MAX);
    bool good = first > 0;
    if (good && *at == 'x') {
        at++;
        uint32_t each = plan_number(&at, PLAN_WORKERS_MAX);
        good = each > 0 && *at == '\0' && first <= PLAN_STAGES_MAX;
        for (; good && count < first; count++)
            found[count] = each;
        total = good ? first * each : 0;
    } else if (good) {
        found[count++] = total = first;
        good = *at == '+';
        while (good && *at == '+') {
            at++;
            uint32_t next = plan_number(&at, PLAN_WORKERS_MAX);
            good = next > 0 && count < PLAN_STAGES_MAX && total <= PLAN_WORKERS_MAX;
            if (good)
                found[count++] = next;
            total += next;
        }
        good = good && *at == '\0';
    }
    if (!good || total > PLAN_WORKERS_MAX)
        return bg_fail(err, BG_INVALID,
                       "plan shape \"%.100s\": expected STAGESxREPLICAS (such as 2x2) or the replicas of each stage "
                       "(such as 1+2), at most %d stages and %d workers",
                       text, PLAN_STAGES_MAX, PLAN_WORKERS_MAX);
    memcpy(replicas, found, count * sizeof *found);
    *stages = count;
    return BG_OK;
}

void plan_shape_fit(const uint32_t *wanted, uint32_t wanted_stages, uint32_t workers, uint32_t units,
                    uint32_t replicas[PLAN_STAGES_MAX], uint32_t *stages)
{
    uint32_t count = wanted_stages;
    count = count < workers ? count : workers;
    count = count < units ? count : units;
    for (uint32_t s = 0; s < count; s++)
        replicas[s] = 1;
    uint32_t left = workers - count;
    for (bool given = true; given && left > 0;) { // round by round, up to what was wanted
        given = false;
        for (uint32_t s = 0; s < count && left > 0; s++) {
            if (replicas[s] >= wanted[s])
                continue;
            replicas[s]++;
            left--;
            given = true;
        }
    }
    for (uint32_t s = 0; count && left > 0; left--, s = (s + 1) % count)
        replicas[s]++;
    *stages = count;
}

bg_status plan_cut(const double *costs, uint32_t units, uint32_t stages, struct bg_error *err, struct plan_stage *out)
{
    if (stages == 0 || stages > units || stages > PLAN_STAGES_MAX)
        return bg_fail(err, BG_INVALID, "cannot cut %u units into %u stages: each needs a unit, at most %d stages",
                       units, stages, PLAN_STAGES_MAX);
    for (uint32_t u = 0; u < units; u++)
        if (!(costs[u] >= 0 && costs[u] <= 1e300))
            return bg_fail(err, BG_INVALID, "cost of unit %u is %g: expected a finite number >= 0", u, costs[u]);
    double *sum = bg_alloc_array(units + 1u, sizeof *sum);
    double *best = bg_alloc_array((stages + 1u) * (units + 1u), sizeof *best); // (k, u): units from u in k stages
    for (uint32_t u = 0; u < units; u++)
        sum[u + 1] = sum[u] + costs[u];
    for (uint32_t k = 1; k <= stages; k++) {
        double *row = best + (size_t)k * (units + 1), *rest = row - (units + 1);
        for (uint32_t u = 0; u + k <= units; u++) {
            row[u] = sum[units] - sum[u];
            for (uint32_t end = u + 1; k > 1 && end + k - 1 <= units; end++) {
                double here = sum[end] - sum[u], most = here > rest[end] ? here : rest[end];
                row[u] = end == u + 1 || most < row[u] ? most : row[u];
                if (here >= row[u])
                    break;
            }
        }
    }
    const double bound = best[(size_t)stages * (units + 1)];
    for (uint32_t s = 0, u = 0; s < stages; s++) { // the earliest cuts that keep to the bound
        const double *rest = best + (size_t)(stages - s - 1) * (units + 1);
        uint32_t end = s + 1 == stages ? units : u + 1;
        while (s + 1 < stages && (rest[end] > bound || sum[end] - sum[u] > bound))
            end++;
        out[s] = (struct plan_stage){u, end};
        u = end;
    }
    bg_free(sum);
    bg_free(best);
    return BG_OK;
}
