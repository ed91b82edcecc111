// Every activation of a trained GPT-2-shaped model that others published (gpt-nano-sort, 3 layers), within 1e-5: read
// from the stash by its debug layout, norm and GELU outputs by the kernels that made them, attention matrices from q
// and k here.
#include "model/decode.h"
#include "model/step_test.h"

#include <jansson.h>
#include <openssl/evp.h>

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>

enum {
    SEQUENCES = 3,
    LENGTH = 11,
    ROWS = SEQUENCES * LENGTH,
    DIM = 48,
    HEADS = 3,
    HEAD_DIM = 16,
    FFN = 192,
    VOCAB = 3
};

static const struct model_config config = {.family = MODEL_GPT2,
                                           .layers = 3,
                                           .dim = DIM,
                                           .heads = HEADS,
                                           .kv_heads = HEADS,
                                           .head_dim = HEAD_DIM,
                                           .ffn = FFN,
                                           .context = LENGTH,
                                           .vocab = VOCAB,
                                           .norm_eps = 1e-5,
                                           .bos = -1,
                                           .eos = -1};

static json_t *open_shared(const char *name)
{
    char path[1024];
    const char *shared = getenv("BRIGADE_SHARED");
    if (shared)
        snprintf(path, sizeof path, "%s/data/models/%s", shared, name);
    else
        snprintf(path, sizeof path, "%s/../shared/data/models/%s", BRIGADE_SOURCE_DIR, name);
    json_t *root = json_load_file(path, 0, NULL);
    if (!root)
        printf("skipped: %s cannot be read (set BRIGADE_SHARED)\n", path);
    return root;
}

static float *tensor(const json_t *root, const char *name, size_t count)
{
    const char *text = json_string_value(json_object_get(json_object_get(root, name), "data"));
    if (!text || strlen(text) / 4 * 3 < count * sizeof(float)) {
        fail_msg("%s: %zu floats expected", name, count);
        return NULL;
    }
    unsigned char *bytes = malloc(strlen(text) / 4 * 3 + 4);
    float *values = malloc(count * sizeof *values);
    assert_true(EVP_DecodeBlock(bytes, (const unsigned char *)text, (int)strlen(text)) > 0);
    memcpy(values, bytes, count * sizeof *values);
    free(bytes);
    return values;
}

static void check(const json_t *root, const char *name, const float *got, size_t count)
{
    float *want = tensor(root, name, count);
    for (size_t i = 0; i < count; i++) {
        bool same = got[i] == want[i] || fabsf(got[i] - want[i]) <= 1e-5f; // the mask's -inf are equal
        if (!same)
            fail_msg("%s[%zu]: %.9g, expected %.9g", name, i, (double)got[i], (double)want[i]);
    }
    free(want);
}

// The file holds c_attn, c_fc and c_proj as Linear (out, in); ours are Conv1D (in, out).
static float *load_weights(const json_t *root, const struct model *m)
{
    float *w = test_floats(m->floats);
    for (uint32_t i = 0; i < m->param_count; i++) {
        const struct model_param *p = &m->params[i];
        float *values = tensor(root, p->name, p->count);
        bool conv = p->rank == 2 && strstr(p->name, ".h.");
        for (size_t r = 0; r < p->shape[0]; r++) {
            for (size_t c = 0; c < p->shape[1]; c++)
                w[p->offset + r * p->shape[1] + c] = conv ? values[c * p->shape[0] + r] : values[r * p->shape[1] + c];
        }
        free(values);
    }
    return w;
}

struct nano {
    struct bg_env *env;
    const struct kern *kern;
    struct model *model;
    float *weights;
    int32_t tokens[ROWS];
    void *lanes[1];
    struct model_run run;
    float *work, *x[4];
    struct block_stash s; // of block 0
    float *stash;
};

static void check_attention(const json_t *root, struct nano *n)
{
    static float q[ROWS * DIM], k[ROWS * DIM], v[ROWS * DIM], att[SEQUENCES * HEADS * LENGTH * LENGTH],
        soft[sizeof att / 4];
    for (size_t i = 0; i < ROWS * DIM; i++) { // (B, T, H, D) to (B, H, T, D)
        size_t row = i / DIM, head = i % DIM / HEAD_DIM, d = i % HEAD_DIM;
        size_t at = ((row / LENGTH * HEADS + head) * LENGTH + row % LENGTH) * HEAD_DIM + d;
        q[at] = n->s.qkv[row * 3 * DIM + i % DIM];
        k[at] = n->s.qkv[row * 3 * DIM + DIM + i % DIM];
        v[at] = n->s.qkv[row * 3 * DIM + 2 * DIM + i % DIM];
    }
    for (size_t i = 0; i < SEQUENCES * HEADS * LENGTH; i++) {
        size_t first = i / LENGTH * LENGTH, row = i % LENGTH;
        for (size_t j = 0; j < LENGTH; j++) {
            double dot = 0.0;
            for (size_t d = 0; d < HEAD_DIM; d++)
                dot += (double)q[i * HEAD_DIM + d] * (double)k[(first + j) * HEAD_DIM + d];
            att[i * LENGTH + j] = j <= row ? (float)(dot / 4.0) : -INFINITY;
            soft[i * LENGTH + j] = j <= row ? att[i * LENGTH + j] : 0.0f;
        }
        n->kern->softmax(soft + i * LENGTH, row + 1);
    }
    check(root, "qkv", n->s.qkv, ROWS * 3 * DIM);
    check(root, "q", q, ROWS * DIM);
    check(root, "k", k, ROWS * DIM);
    check(root, "v", v, ROWS * DIM);
    check(root, "att", att, sizeof att / 4);
    check(root, "attSm", soft, sizeof att / 4);
}

static void check_block(const json_t *root, struct nano *n)
{
    static float h[ROWS * DIM], gelu[ROWS * FFN], mean[ROWS], rstd[ROWS];
    struct block b = block_of(n->model, 1, false);
    norm_forward(&b.norm1, n->kern, n->weights, h, mean, rstd, n->x[0], ROWS);
    check(root, "ln1", h, ROWS * DIM);
    assert_memory_equal(mean, n->s.mean1, sizeof mean);
    assert_memory_equal(rstd, n->s.rstd1, sizeof rstd);
    check_attention(root, n);
    check(root, "y", n->s.att, ROWS * DIM);
    check(root, "attnResid", n->s.mid, ROWS * DIM);
    for (size_t i = 0; i < ROWS * DIM; i++)
        h[i] = n->s.mid[i] - n->x[0][i];
    check(root, "yProj", h, ROWS * DIM);
    norm_forward(&b.norm2, n->kern, n->weights, h, mean, rstd, n->s.mid, ROWS);
    check(root, "ln2", h, ROWS * DIM);
    check(root, "fc", n->s.up, ROWS * FFN);
    n->kern->gelu(gelu, n->s.up, ROWS * FFN);
    check(root, "gelu", gelu, ROWS * FFN);
    for (size_t i = 0; i < ROWS * DIM; i++)
        h[i] = n->x[1][i] - n->s.mid[i];
    check(root, "mlp", h, ROWS * DIM);
    check(root, "mlpResid", n->x[1], ROWS * DIM);
}

static void check_head(const json_t *root, struct nano *n)
{
    static float h[ROWS * DIM], mean[ROWS], rstd[ROWS], logits[ROWS * VOCAB];
    struct head head = head_of(n->model);
    norm_forward(&head.norm, n->kern, n->weights, h, mean, rstd, n->x[3], ROWS);
    check(root, "ln_f", h, ROWS * DIM);
    struct bg_error err;
    struct decoder *d;
    assert_int_equal(decoder_create(n->env, n->model, n->kern, n->weights, LENGTH, LENGTH, &err, &d), BG_OK);
    for (size_t s = 0; s < SEQUENCES; s++) {
        decoder_reset(d);
        assert_int_equal(decoder_feed_all(d, n->tokens + s * LENGTH, LENGTH, logits + s * LENGTH * VOCAB, &err), BG_OK);
    }
    decoder_destroy(d);
    check(root, "lm_head", logits, ROWS * VOCAB);
    for (size_t r = 0; r < ROWS; r++)
        n->kern->softmax(logits + r * VOCAB, VOCAB);
    check(root, "probs", logits, ROWS * VOCAB);
}

static struct nano nano_run(const json_t *weights, const json_t *activations)
{
    struct nano n = {.env = test_env(1), .model = test_model(config)};
    n.kern = kern_select(n.env->isa);
    n.weights = load_weights(weights, n.model);
    float *ids = tensor(activations, "idx", ROWS);
    for (size_t i = 0; i < ROWS; i++)
        n.tokens[i] = (int32_t)ids[i];
    free(ids);
    n.lanes[0] = test_memory(model_scratch_bytes(n.model, n.kern, SEQUENCES, LENGTH, 1, true));
    n.work = test_floats(model_work_floats(n.model, SEQUENCES, LENGTH, 1, true));
    n.stash = test_floats(model_stash_floats(n.model, 1, SEQUENCES, LENGTH, 1, false, true));
    float *other = test_floats(model_stash_floats(n.model, 2, SEQUENCES, LENGTH, 1, false, true));
    n.run = (struct model_run){.model = n.model,
                               .kern = n.kern,
                               .env = n.env,
                               .weights = n.weights,
                               .lane_scratch = n.lanes,
                               .batch = SEQUENCES,
                               .length = LENGTH,
                               .count = 1,
                               .tokens = n.tokens};
    for (uint32_t u = 0; u < 4; u++) {
        n.x[u] = test_floats(ROWS * DIM);
        model_forward(&n.run, u, n.x[u], u ? n.x[u - 1] : NULL, u == 1 ? n.stash : other, n.work, NULL);
    }
    struct lay lay = {.base = n.stash};
    n.s = block_stash_lay(n.model, (struct shape){SEQUENCES, LENGTH, ROWS}, false, &lay);
    free(other);
    return n;
}

static void test_activations(void **state)
{
    (void)state;
    json_t *weights = open_shared("gpt-nano-sort.json"), *activations = open_shared("gpt-nano-sort.activations.json");
    if (!weights || !activations) {
        json_decref(weights);
        json_decref(activations);
        skip();
    }
    struct nano n = nano_run(weights, activations);
    float *tokens = malloc(ROWS * DIM * sizeof *tokens);
    n.kern->embed(tokens, n.weights + model_offset(n.model, 0, MODEL_ROLE_EMBED), NULL, n.tokens, ROWS, DIM, 0, LENGTH);
    check(activations, "tok_emb", tokens, ROWS * DIM);
    check(activations, "pos_emb", n.weights + model_offset(n.model, 0, MODEL_ROLE_POSITION), LENGTH * DIM);
    check(activations, "x", n.x[0], ROWS * DIM);
    check_block(activations, &n);
    check(activations, "block0", n.x[1], ROWS * DIM);
    check(activations, "block1", n.x[2], ROWS * DIM);
    check(activations, "block2", n.x[3], ROWS * DIM);
    check_head(activations, &n);
    free(tokens);
    free(n.stash);
    free(n.work);
    free(n.weights);
    free(n.lanes[0]);
    for (size_t i = 0; i < 4; i++)
        free(n.x[i]);
    model_destroy(n.model);
    os_env_destroy(n.env);
    json_decref(weights);
    json_decref(activations);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_activations)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
