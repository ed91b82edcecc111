// Initial values (NUMERICS 14). Every tensor is drawn from its own name: counter = {element / 4, high word of that,
// low and high word of XXH3-64(name)} in the init stream; the four words of a counter make two Box-Muller pairs in
// double, rounded to float once. So a value depends on the seed, the tensor's name and the element's index, and on
// nothing else.
#include "model/model_int.h"

#include "base/dmath.h"
#include "base/hash.h"

#include <math.h>
#include <string.h>

#define TWO_PI 6.283185307179586

enum { GRAIN = 1 << 16 }; // elements of an item, a multiple of 4

struct draw {
    struct bg_philox_key key;
    uint64_t hash;
    double scale;
    float *out;
    uint64_t count;
};

static void draw_four(const struct draw *d, uint64_t quad, float values[4])
{
    struct bg_philox_counter counter = {
        {(uint32_t)quad, (uint32_t)(quad >> 32), (uint32_t)d->hash, (uint32_t)(d->hash >> 32)}};
    counter = bg_philox(counter, d->key);
    for (size_t pair = 0; pair < 2; pair++) {
        double u = ((double)counter.c[2 * pair] + 1.0) * 0x1p-32; // (0, 1]
        double angle = TWO_PI * ((double)counter.c[2 * pair + 1] * 0x1p-32);
        double radius = sqrt(-2.0 * bg_dlog(u)) * d->scale;
        values[2 * pair] = (float)(radius * bg_dcos(angle));
        values[2 * pair + 1] = (float)(radius * bg_dsin(angle));
    }
}

static void draw_item(void *arg, size_t index, unsigned lane)
{
    const struct draw *d = arg;
    (void)lane;
    uint64_t end = (index + 1) * GRAIN < d->count ? (index + 1) * GRAIN : d->count;
    for (uint64_t i = index * GRAIN; i < end; i += 4) {
        float values[4];
        draw_four(d, i / 4, values);
        memcpy(d->out + i, values, sizeof(float) * (end - i < 4 ? end - i : 4));
    }
}

void model_init_weights(const struct model *model, struct bg_env *env, uint64_t seed, float *weights)
{
    model_init_units(model, env, seed, NULL, weights);
}

bool model_holds_param(const struct model *model, const uint8_t *units, uint32_t param)
{
    const struct model_param *p = &model->params[param];
    bool shared = p->role == MODEL_ROLE_EMBED && model->config.tie;
    return !units || units[p->unit] || (shared && units[model->unit_count - 1]);
}

void model_init_units(const struct model *model, struct bg_env *env, uint64_t seed, const uint8_t *units,
                      float *weights)
{
    for (uint32_t i = 0; i < model->param_count; i++) {
        const struct model_param *p = &model->params[i];
        float *out = weights + p->offset;
        if (!model_holds_param(model, units, i))
            continue;
        if (p->init == MODEL_INIT_ZERO) {
            memset(out, 0, p->count * sizeof *out);
            continue;
        }
        for (uint64_t e = 0; p->init == MODEL_INIT_ONE && e < p->count; e++)
            out[e] = 1.0f;
        if (p->init == MODEL_INIT_ONE)
            continue;
        struct draw draw = {
            .key = bg_philox_key(seed, BG_STREAM_INIT),
            .hash = bg_xxh64(p->name, strlen(p->name)),
            .scale = p->init == MODEL_INIT_RESIDUAL ? 0.02 / sqrt(2.0 * model->config.layers) : 0.02,
            .out = out,
            .count = p->count,
        };
        env_parallel_for(env, (p->count + GRAIN - 1) / GRAIN, draw_item, &draw);
    }
}
