// The optimizer: every configuration there is, priced by the profile.
#include "plan/service/spotserve.h"

#include <math.h>
#include <stdbool.h>

static uint32_t log_of(uint32_t power)
{
    return (uint32_t)__builtin_ctz(power);
}

static void price(const struct plan_spotserve_profile *p, uint32_t tokens, struct plan_spotserve_config *c)
{
    const uint32_t layers = (p->layers + c->stages - 1) / c->stages, width = log_of(c->width);
    const double prompt_ms = p->prompt_ms[width][log_of(c->batch / c->prompt_parts)];
    const double token_ms = p->token_ms[width][log_of(c->batch / c->token_parts)];
    const double parts = c->prompt_parts, cuts = c->stages - 1;
    c->prompt_ms = prompt_ms * layers * (c->stages + parts - 1) / parts + p->stage_prompt_ms / parts * cuts;
    c->token_ms = token_ms * layers * (c->stages + c->token_parts - 1) + p->stage_token_ms / c->token_parts * cuts;
    c->latency_ms = (c->prompt_ms + c->token_ms * tokens + 2 * p->embed_ms[log_of(c->batch)]) * p->factor;
    c->prompt_ms *= p->factor;
    c->token_ms *= p->factor;
    c->rate = c->replicas * c->batch / c->latency_ms * 1000;
}

static bool is_power(uint32_t value)
{
    return value && !(value & (value - 1)) && value < 1U << PLAN_SPOTSERVE_LOG_MAX;
}

static bg_status check(const struct plan_spotserve_profile *p, uint32_t machines, uint32_t batch_max, double rate,
                       struct bg_error *err)
{
    if (!is_power(batch_max) || !is_power(p->width_max))
        return bg_fail(err, BG_INVALID, "batches of %u and a width of %u: expected powers of two of at most %d",
                       batch_max, p->width_max, 1 << (PLAN_SPOTSERVE_LOG_MAX - 1));
    if (!p->layers || p->padded_layers < p->layers || p->padded_layers > 65536 || !p->machines_min)
        return bg_fail(err, BG_INVALID,
                       "%u layers padded to %u on %u machines: expected numbers above 0, and no fewer when padded",
                       p->layers, p->padded_layers, p->machines_min);
    if (machines > PLAN_SPOTSERVE_MACHINES || !(rate >= 0))
        return bg_fail(err, BG_INVALID,
                       "%u machines, %g requests a second: expected at most %d machines, a rate of 0 or more", machines,
                       rate, PLAN_SPOTSERVE_MACHINES);
    for (uint32_t w = 0; w <= log_of(p->width_max); w++)
        for (uint32_t b = 0; b <= log_of(batch_max); b++)
            if (!(p->prompt_ms[w][b] > 0) || !(p->token_ms[w][b] > 0) || !(p->embed_ms[b] >= 0) || !(p->factor > 0))
                return bg_fail(err, BG_INVALID, "the profile has no times for a width of %u and a batch of %u", 1U << w,
                               1U << b);
    return BG_OK;
}

// Better than *best for the rate asked for; the first of equal ones stays.
static bool better(const struct plan_spotserve_config *c, const struct plan_spotserve_config *best, double rate)
{
    if (!best->replicas)
        return true;
    if ((c->rate >= rate) != (best->rate >= rate))
        return c->rate >= rate;
    return c->rate >= rate ? c->latency_ms < best->latency_ms : c->rate > best->rate;
}

bg_status plan_spotserve_solve(const struct plan_spotserve_profile *profile, uint32_t machines, uint32_t batch_max,
                               double rate, uint32_t tokens, struct bg_error *err, struct plan_spotserve_config *config)
{
    const bg_status status = check(profile, machines, batch_max, rate, err);
    if (status)
        return status;
    struct plan_spotserve_config best = {0};
    for (uint32_t w = 1; machines >= profile->machines_min && w <= profile->width_max && w <= machines; w *= 2) {
        for (uint32_t b = 1; b <= batch_max; b *= 2) {
            for (uint32_t m1 = 1; m1 <= b; m1 *= 2) {
                for (uint32_t m2 = 1; m2 <= b; m2 *= 2) {
                    for (uint32_t p = (profile->machines_min + w - 1) / w; p * w <= machines; p++) {
                        if (profile->padded_layers % p != 0)
                            continue;
                        struct plan_spotserve_config c = {machines / (p * w), w, p, b, m1, m2, 0, 0, 0, 0, 0};
                        price(profile, tokens, &c);
                        if (better(&c, &best, rate))
                            best = c;
                    }
                }
            }
        }
    }
    best.replicas_needed = best.replicas;
    if (best.replicas && best.rate >= rate) {
        const double one = best.rate / best.replicas;
        const uint32_t enough = (uint32_t)fmax(1, ceil(rate / one - 1e-9));
        best.replicas_needed = enough < best.replicas ? enough : best.replicas;
    }
    *config = best;
    return BG_OK;
}

uint32_t plan_spotserve_steps(const struct plan_spotserve_config *config, double slot_s, uint32_t tokens)
{
    if (!config->replicas || !(slot_s > 0))
        return 0;
    const double steps = trunc((slot_s * 1000 - config->prompt_ms) / config->token_ms + 1);
    return steps <= 0 ? 0 : steps >= tokens ? tokens : (uint32_t)steps;
}
