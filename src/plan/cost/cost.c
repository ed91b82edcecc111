// Interpolation between measured costs: first over rows at every width that was measured, then over widths.
#include "plan/cost/cost.h"

#include "base/dmath.h"

#include <math.h>

bool plan_cost_add(struct plan_costs *costs, const struct plan_cost_sample *s)
{
    if (costs->count == PLAN_COST_SAMPLES_MAX || !(s->rows > 0 && s->width > 0 && s->work > 0))
        return false;
    for (int part = 0; part < PLAN_COST_PARTS; part++)
        if (!(s->seconds[part] >= 0 && isfinite(s->seconds[part])))
            return false;
    if (!isfinite(s->rows) || !isfinite(s->width) || !isfinite(s->work))
        return false;
    costs->samples[costs->count++] = *s;
    return true;
}

// The samples of one kind and width next to `rows` on either side (of the two, the same one where there is but one).
static bool neighbours(const struct plan_costs *costs, enum plan_unit_kind kind, double width, double rows,
                       const struct plan_cost_sample **below, const struct plan_cost_sample **above)
{
    *below = *above = NULL;
    for (uint32_t i = 0; i < costs->count; i++) {
        const struct plan_cost_sample *s = &costs->samples[i];
        if (s->kind != kind || s->width != width)
            continue;
        if (s->rows <= rows && (!*below || s->rows > (*below)->rows))
            *below = s;
        if (s->rows >= rows && (!*above || s->rows < (*above)->rows))
            *above = s;
    }
    return *below || *above;
}

// Seconds of a unit of work at a measured width.
static double at_width(const struct plan_costs *costs, enum plan_unit_kind kind, double width, double rows, int part)
{
    const struct plan_cost_sample *a, *b;
    if (!neighbours(costs, kind, width, rows, &a, &b))
        return 0;
    if (!a) { // fewer rows than any: along the line of the lowest two, but never cheaper a row
        const struct plan_cost_sample *c = NULL;
        for (uint32_t i = 0; i < costs->count; i++) {
            const struct plan_cost_sample *s = &costs->samples[i];
            if (s->kind == kind && s->width == width && s->rows > b->rows && (!c || s->rows < c->rows))
                c = s;
        }
        const double per_row = b->seconds[part] / b->rows;
        const double slope = c ? (c->seconds[part] - b->seconds[part]) / (c->rows - b->rows) : per_row;
        const double seconds = b->seconds[part] - (b->rows - rows) * (slope > 0 ? slope : 0);
        return fmax(seconds, per_row * rows) / (rows * b->work);
    }
    if (!b || a == b || a->rows == b->rows)
        return a->seconds[part] / (a->rows * a->work);
    const double share = (rows - a->rows) / (b->rows - a->rows);
    return (a->seconds[part] + share * (b->seconds[part] - a->seconds[part])) / (rows * a->work);
}

bool plan_cost_at(const struct plan_costs *costs, struct plan_cost_sample *sample)
{
    double below = 0, above = 0; // widths
    for (uint32_t i = 0; i < costs->count; i++) {
        const struct plan_cost_sample *s = &costs->samples[i];
        if (s->kind != sample->kind)
            continue;
        below = s->width <= sample->width && s->width > below ? s->width : below;
        above = s->width >= sample->width && (above == 0 || s->width < above) ? s->width : above;
    }
    if (below == 0 && above == 0)
        return false;
    below = below > 0 ? below : above;
    above = above > 0 ? above : below;
    for (int part = 0; part < PLAN_COST_PARTS; part++) {
        const double a = at_width(costs, sample->kind, below, sample->rows, part);
        const double b = at_width(costs, sample->kind, above, sample->rows, part);
        const double share = above > below ? bg_dlog(sample->width / below) / bg_dlog(above / below) : 0;
        const double each = a > 0 && b > 0 ? a * bg_dpow(b / a, share) : a + share * (b - a);
        sample->seconds[part] = each * sample->rows * sample->work;
    }
    return true;
}
