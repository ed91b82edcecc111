// The double-precision oracle: the loss of a step written down a second time, from the papers' formulas and the Hugging
// Face tensor names, in plain loops over doubles. It shares no code with the room; only tensors are found through it.
#ifndef MODEL_ORACLE_TEST_H
#define MODEL_ORACLE_TEST_H

#include "model/step_test.h"

struct oracle {
    const struct step *step;
    const double *w;
    size_t tokens;                         // of the step
    double *x, *h, *q, *k, *v, *a, *g, *u; // (tokens, ...)
};

static inline const double *oracle_tensor(const struct oracle *o, int layer, const char *suffix)
{
    char name[128];
    bool gpt2 = o->step->model->config.family == MODEL_GPT2;
    if (layer < 0)
        snprintf(name, sizeof name, "%s", suffix);
    else
        snprintf(name, sizeof name, "%s.%d.%s", gpt2 ? "transformer.h" : "model.layers", layer, suffix);
    const struct model_param *p = model_param_find(o->step->model, name);
    return p ? o->w + p->offset : NULL;
}

// y (n, out) = x (n, in) W^T + b; conv: W is (in, out)
static inline void oracle_linear(double *y, const double *x, const double *w, const double *b, size_t n, size_t in,
                                 size_t out, bool conv)
{
    for (size_t r = 0; r < n; r++) {
        for (size_t j = 0; j < out; j++) {
            double sum = b ? b[j] : 0.0;
            for (size_t i = 0; i < in; i++)
                sum += x[r * in + i] * (conv ? w[i * out + j] : w[j * in + i]);
            y[r * out + j] = sum;
        }
    }
}

static inline void oracle_norm(double *y, const double *x, const double *gamma, const double *beta, size_t n, size_t d,
                               double eps)
{
    for (size_t r = 0; r < n; r++, x += d, y += d) {
        double mean = 0.0, square = 0.0;
        for (size_t i = 0; i < d && beta; i++)
            mean += x[i] / (double)d;
        for (size_t i = 0; i < d; i++)
            square += (x[i] - mean) * (x[i] - mean) / (double)d;
        for (size_t i = 0; i < d; i++)
            y[i] = (x[i] - mean) / sqrt(square + eps) * gamma[i] + (beta ? beta[i] : 0.0);
    }
}

static inline void oracle_rope(double *x, size_t n, size_t heads, size_t d, size_t length, double theta)
{
    for (size_t r = 0; r < n; r++) {
        for (size_t h = 0; h < heads; h++) {
            for (size_t i = 0; i < d / 2; i++) {
                double angle = (double)(r % length) / pow(theta, 2.0 * (double)i / (double)d);
                double *low = x + (r * heads + h) * d + i, *high = low + d / 2, a = *low, b = *high;
                *low = a * cos(angle) - b * sin(angle);
                *high = b * cos(angle) + a * sin(angle);
            }
        }
    }
}

static inline void oracle_attention_row(const struct oracle *o, size_t r, size_t h)
{
    const struct model_config *c = &o->step->model->config;
    size_t d = c->head_dim, group = c->heads / c->kv_heads, first = r / o->step->length * o->step->length;
    double weight[64], total = 0.0;
    for (size_t j = first; j <= r; j++) {
        double dot = 0.0;
        for (size_t i = 0; i < d; i++)
            dot += o->q[(r * c->heads + h) * d + i] * o->k[(j * c->kv_heads + h / group) * d + i];
        weight[j - first] = exp(dot / sqrt((double)d));
        total += weight[j - first];
    }
    for (size_t i = 0; i < d; i++) {
        double sum = 0.0;
        for (size_t j = first; j <= r; j++)
            sum += weight[j - first] / total * o->v[(j * c->kv_heads + h / group) * d + i];
        o->a[(r * c->heads + h) * d + i] = sum;
    }
}

// NUMERICS 15, from the definition: counter = (element / 4, micro-batch, step, op).
static inline void oracle_dropout(const struct oracle *o, double *x, size_t dim, uint32_t op)
{
    double rate = (double)o->step->dropout;
    size_t leaf = (size_t)o->step->batch * o->step->length * dim;
    struct bg_philox_key key = bg_philox_key(7, BG_STREAM_DROPOUT);
    for (size_t e = 0; rate > 0.0 && e < o->tokens * dim; e++) {
        struct bg_philox_counter counter = {{(uint32_t)(e % leaf / 4), (uint32_t)(e / leaf), 3, op}};
        double u = (double)(bg_philox(counter, key).c[e % leaf % 4] >> 8) / 16777216.0;
        x[e] = u >= rate ? x[e] / (1.0 - rate) : 0.0;
    }
}

static inline void oracle_qkv(const struct oracle *o, int l)
{
    const struct model_config *c = &o->step->model->config;
    size_t n = o->tokens, d = c->dim, q = (size_t)c->heads * c->head_dim, kv = (size_t)c->kv_heads * c->head_dim;
    if (c->family == MODEL_LLAMA) {
        oracle_linear(o->q, o->h, oracle_tensor(o, l, "self_attn.q_proj.weight"),
                      oracle_tensor(o, l, "self_attn.q_proj.bias"), n, d, q, false);
        oracle_linear(o->k, o->h, oracle_tensor(o, l, "self_attn.k_proj.weight"),
                      oracle_tensor(o, l, "self_attn.k_proj.bias"), n, d, kv, false);
        oracle_linear(o->v, o->h, oracle_tensor(o, l, "self_attn.v_proj.weight"),
                      oracle_tensor(o, l, "self_attn.v_proj.bias"), n, d, kv, false);
        oracle_rope(o->q, n, c->heads, c->head_dim, o->step->length, c->rope_theta);
        oracle_rope(o->k, n, c->kv_heads, c->head_dim, o->step->length, c->rope_theta);
        return;
    }
    oracle_linear(o->g, o->h, oracle_tensor(o, l, "attn.c_attn.weight"), oracle_tensor(o, l, "attn.c_attn.bias"), n, d,
                  3 * d, true);
    for (size_t r = 0; r < n; r++) {
        memcpy(o->q + r * d, o->g + r * 3 * d, d * sizeof(double));
        memcpy(o->k + r * d, o->g + r * 3 * d + d, d * sizeof(double));
        memcpy(o->v + r * d, o->g + r * 3 * d + 2 * d, d * sizeof(double));
    }
}

static inline void oracle_mlp(const struct oracle *o, int l)
{
    const struct model_config *c = &o->step->model->config;
    size_t n = o->tokens, d = c->dim, f = c->ffn;
    bool gpt2 = c->family == MODEL_GPT2;
    if (gpt2) {
        oracle_linear(o->u, o->h, oracle_tensor(o, l, "mlp.c_fc.weight"), oracle_tensor(o, l, "mlp.c_fc.bias"), n, d, f,
                      true);
    } else {
        oracle_linear(o->g, o->h, oracle_tensor(o, l, "mlp.gate_proj.weight"),
                      oracle_tensor(o, l, "mlp.gate_proj.bias"), n, d, f, false);
        oracle_linear(o->u, o->h, oracle_tensor(o, l, "mlp.up_proj.weight"), oracle_tensor(o, l, "mlp.up_proj.bias"), n,
                      d, f, false);
    }
    for (size_t i = 0; i < n * f; i++) {
        double u = o->u[i], g = o->g[i];
        o->u[i] = gpt2 ? 0.5 * u * (1.0 + tanh(sqrt(2.0 / 3.14159265358979323846) * (u + 0.044715 * u * u * u)))
                       : u * g / (1.0 + exp(-g));
    }
    const double *w = oracle_tensor(o, l, gpt2 ? "mlp.c_proj.weight" : "mlp.down_proj.weight");
    const double *b = oracle_tensor(o, l, gpt2 ? "mlp.c_proj.bias" : "mlp.down_proj.bias");
    oracle_linear(o->h, o->u, w, b, n, f, d, gpt2);
}

static inline void oracle_block(const struct oracle *o, int l)
{
    const struct model_config *c = &o->step->model->config;
    size_t n = o->tokens, d = c->dim;
    bool gpt2 = c->family == MODEL_GPT2;
    oracle_norm(o->h, o->x, oracle_tensor(o, l, gpt2 ? "ln_1.weight" : "input_layernorm.weight"),
                oracle_tensor(o, l, "ln_1.bias"), n, d, c->norm_eps);
    oracle_qkv(o, l);
    for (size_t r = 0; r < n; r++) {
        for (size_t h = 0; h < c->heads; h++)
            oracle_attention_row(o, r, h);
    }
    const double *w = oracle_tensor(o, l, gpt2 ? "attn.c_proj.weight" : "self_attn.o_proj.weight");
    const double *b = oracle_tensor(o, l, gpt2 ? "attn.c_proj.bias" : "self_attn.o_proj.bias");
    oracle_linear(o->h, o->a, w, b, n, (size_t)c->heads * c->head_dim, d, gpt2);
    oracle_dropout(o, o->h, d, (uint32_t)l * 4 + 1);
    for (size_t i = 0; i < n * d; i++)
        o->x[i] += o->h[i];
    oracle_norm(o->h, o->x, oracle_tensor(o, l, gpt2 ? "ln_2.weight" : "post_attention_layernorm.weight"),
                oracle_tensor(o, l, "ln_2.bias"), n, d, c->norm_eps);
    oracle_mlp(o, l);
    oracle_dropout(o, o->h, d, (uint32_t)l * 4 + 2);
    for (size_t i = 0; i < n * d; i++)
        o->x[i] += o->h[i];
}

static inline void oracle_embed(const struct oracle *o)
{
    const struct step *s = o->step;
    size_t d = s->model->config.dim;
    bool gpt2 = s->model->config.family == MODEL_GPT2;
    const double *table = oracle_tensor(o, -1, gpt2 ? "transformer.wte.weight" : "model.embed_tokens.weight");
    const double *positions = oracle_tensor(o, -1, "transformer.wpe.weight");
    for (size_t r = 0; r < o->tokens; r++) {
        for (size_t i = 0; i < d; i++)
            o->x[r * d + i] =
                table[(size_t)s->tokens[r] * d + i] + (positions ? positions[r % s->length * d + i] : 0.0);
    }
    oracle_dropout(o, o->x, d, 0);
}

// Mean loss over all rows of the step (ignored rows count in N, as the scale of the tests has it).
static inline double oracle_head(const struct oracle *o, double *losses)
{
    const struct step *s = o->step;
    const struct model_config *c = &s->model->config;
    size_t d = c->dim;
    bool gpt2 = c->family == MODEL_GPT2;
    oracle_norm(o->h, o->x, oracle_tensor(o, -1, gpt2 ? "transformer.ln_f.weight" : "model.norm.weight"),
                oracle_tensor(o, -1, "transformer.ln_f.bias"), o->tokens, d, c->norm_eps);
    const double *w = oracle_tensor(o, -1, "lm_head.weight");
    if (!w)
        w = oracle_tensor(o, -1, gpt2 ? "transformer.wte.weight" : "model.embed_tokens.weight");
    oracle_linear(o->g, o->h, w, NULL, o->tokens, d, c->vocab, false);
    double total = 0.0;
    for (size_t r = 0; r < o->tokens; r++) {
        double sum = 0.0;
        for (size_t j = 0; j < c->vocab; j++)
            sum += exp(o->g[r * c->vocab + j]);
        double loss = s->targets[r] < 0 ? 0.0 : log(sum) - o->g[r * c->vocab + (size_t)s->targets[r]];
        if (losses)
            losses[r] = loss;
        total += loss;
    }
    return total / (double)o->tokens;
}

static inline struct oracle oracle_create(const struct step *s)
{
    const struct model_config *c = &s->model->config;
    struct oracle o = {.step = s, .tokens = (size_t)s->micro_batches * s->batch * s->length};
    size_t width = 3 * ((size_t)c->heads * c->head_dim + c->dim + c->ffn + c->vocab);
    o.x = calloc(8 * o.tokens * width, sizeof(double));
    double **parts[] = {&o.h, &o.q, &o.k, &o.v, &o.a, &o.g, &o.u};
    for (size_t i = 0; i < 7; i++)
        *parts[i] = o.x + (i + 1) * o.tokens * width;
    return o;
}

static inline double oracle_loss(struct oracle *o, const double *w, double *losses)
{
    o->w = w;
    oracle_embed(o);
    for (int l = 0; l < (int)o->step->model->config.layers; l++)
        oracle_block(o, l);
    return oracle_head(o, losses);
}

#endif
