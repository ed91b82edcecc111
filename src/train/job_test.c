// The job: defaults, job file and overrides; every key through YAML and back; errors that name place, key and what was
// expected; what is refused; the learning rate's schedule.
#include "train/job_int.h"

#include "base/mem.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

// A job from text and up to four overrides; returns the status.
static bg_status load(const char *text, const char *const *overrides, struct bg_error *err, struct job *job)
{
    size_t count = 0;
    while (overrides && overrides[count])
        count++;
    struct job_source source = {.file = "job.yaml", .text = text, .size = text ? strlen(text) : 0, .stem = "job"};
    return job_resolve(&source, overrides, count, err, job);
}

static void check_defaults(void **state)
{
    (void)state;
    struct job_source source = {.file = "texts/corpus.txt", .train = "texts/corpus.txt", .stem = "corpus"};
    struct job job;
    struct bg_error err = {0};
    assert_int_equal(job_resolve(&source, NULL, 0, &err, &job), BG_OK);
    const struct model_config *c = &job.model.config;
    assert_true(c->family == MODEL_LLAMA && c->layers == 6 && c->dim == 384 && c->heads == 6 && c->kv_heads == 6);
    assert_true(c->head_dim == 64 && c->ffn == 1024 && c->context == 256 && c->tie && c->vocab == 0);
    assert_true(c->rope_theta == 10000 && c->norm_eps == 1e-5 && !c->qkv_bias && !c->out_bias && !c->mlp_bias);
    assert_true(job.data.train.count == 1 && job.data.valid == 0.1 && job.data.valid_files.count == 0);
    assert_string_equal(job.data.train.items[0], "texts/corpus.txt");
    assert_string_equal(job.data.tokenizer, "bytes");
    assert_string_equal(job.data.field, "text");
    assert_null(job.data.cache);
    assert_true(job.train.steps == 500 && job.train.micro_batch == 4 && job.train.micro_batches == 8);
    assert_true(job.train.lr == 3e-4 && job.train.min_lr == 3e-5 && job.train.warmup == 50);
    assert_true(job.train.schedule == JOB_COSINE && job.train.weight_decay == 0.1 && job.train.clip == 1);
    assert_true(job.train.beta1 == 0.9 && job.train.beta2 == 0.95 && job.train.eps == 1e-8 && job.train.dropout == 0);
    assert_true(job.train.seed == 1 && job.train.eval_every == 100 && job.train.checkpoint_every == 100);
    assert_true(job.train.keep == 3 && job.train.eval_tokens == 0);
    assert_true(job.run.workers == 0 && job.run.threads == 0 && job.run.group == 0);
    assert_string_equal(job.run.dir, "runs/corpus");
    assert_string_equal(job.run.order, "ascending");
    job_fini(&job);
}

static void spread(void **state)
{
    (void)state;
    static const struct {
        const char *plan, *shadow;
        uint32_t workers, stages, seats;
        bool has_shadow, many;
    } cases[] = {
        {"auto", "auto", 0, 1, 1, false, false}, {"auto", "auto", 4, 1, 4, false, true},
        {"auto", "true", 1, 1, 1, true, true},   {"2x2", "auto", 0, 2, 4, false, true},
        {"2x1", "auto", 2, 2, 2, true, true},    {"2x1", "false", 2, 2, 2, false, true},
        {"1+2", "auto", 0, 2, 3, true, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct job job = {.train = {.micro_batches = 4},
                          .run = {.plan = (char *)(uintptr_t)cases[i].plan,
                                  .schedule = (char *)(uintptr_t) "1f1b",
                                  .shadow = (char *)(uintptr_t)cases[i].shadow,
                                  .workers = cases[i].workers}};
        struct job_spread s;
        struct bg_error err;
        assert_int_equal(job_spread(NULL, &job, 8, &err, &s), BG_OK);
        assert_true(s.stages == cases[i].stages && s.seats == cases[i].seats && s.chunks == 1 && !s.cut);
        assert_int_equal(s.shadow, cases[i].has_shadow);
        assert_int_equal(job_is_spread(&s), cases[i].many);
    }
}

static void speeds(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint32_t workers;
        double expected[3];
        const char *error;
    } cases[] = {
        {NULL, 3, {1, 1, 1}, NULL},
        {"1,0.5,2e1", 3, {1, 0.5, 20}, NULL},
        {"1,2", 3, {0}, "fewer speeds than the 3 workers"},
        {"1,2,3", 2, {0}, "more speeds than the 2 workers"},
        {"1,,2", 3, {0}, "\",2\""},
        {"1,0", 2, {0}, "\"0\""},
        {"nan,1", 2, {0}, "\"nan,1\""},
        {"inf,1", 2, {0}, "\"inf,1\""},
        {"1;2", 2, {0}, "\"1;2\""},
        {"1,1,", 2, {1, 1}, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct job job = {.run = {.speeds = (char *)(uintptr_t)cases[i].text}};
        struct bg_error err = {0};
        double found[3];
        assert_int_equal(job_speeds(&job, cases[i].workers, &err, found), cases[i].error ? BG_INVALID : BG_OK);
        for (uint32_t w = 0; w < cases[i].workers && !cases[i].error; w++)
            assert_true(found[w] == cases[i].expected[w]);
        if (cases[i].error && !strstr(err.text, cases[i].error))
            fail_msg("%s", err.text);
    }
    // More workers than micro-batches are for auto to seat.
    struct job job = {.train = {.micro_batches = 4},
                      .run = {.plan = (char *)(uintptr_t) "auto",
                              .schedule = (char *)(uintptr_t) "1f1b",
                              .shadow = (char *)(uintptr_t) "auto",
                              .workers = 6}};
    struct job_spread s;
    struct bg_error err;
    const uint32_t replicas[] = {1, 2, 3};
    assert_int_equal(job_spread(NULL, &job, 8, &err, &s), BG_OK);
    assert_true(s.seats == 6 && !s.shadow);
    job_spread_shape(&job, replicas, 3, &s);
    assert_true(s.stages == 3 && s.seats == 6 && s.replicas[2] == 3 && s.shadow);
}

static const char example[] =
    "model: {family: llama, layers: 6, dim: 384, heads: 6, kv_heads: 6, ffn: 1024, context: 256, tie: true}\n"
    "data:  {train: [corpus.txt], valid: 0.1, tokenizer: bytes}   # bytes | tokenizer.json\n"
    "train: {steps: 500, micro_batch: 4, micro_batches: 8, lr: 3e-4, min_lr: 3e-5, warmup: 50, schedule: cosine, "
    "weight_decay: 0.1,\n"
    "        betas: [0.9, 0.95], eps: 1e-8, clip: 1.0, dropout: 0.0, seed: 1, eval_every: 100, checkpoint_every: 100, "
    "keep: 3}\n"
    "run:   {dir: runs/first, workers: 1, threads: 2, plan: auto, schedule: 1f1b, shadow: auto, recovery: live}\n";

static const char every_key[] =
    "model:\n  family: llama\n  layers: 2\n  dim: 96\n  heads: 6\n  kv_heads: 3\n  head_dim: 32\n  ffn: 100\n"
    "  context: 64\n  vocab: 512\n  tie: false\n  bias: qkv\n  rope_theta: 500000\n  norm_eps: 1e-6\n"
    "data:\n  train:\n    - a.txt\n    - \"b: c #.jsonl\"\n    - 'null'\n    - d\xC3\xA9j\xC3\xA0.txt\n"
    "  valid: [v.txt]\n  tokenizer: tok.json\n  field: a.b\n  utf8: replace\n  cache: '~'\n"
    "train:\n  steps: 7\n  micro_batch: 3\n  micro_batches: 5\n  lr: 0.123456789012345\n  min_lr: 0\n  warmup: 2\n"
    "  schedule: linear\n  weight_decay: 0\n  betas:\n    - 0.5\n    - 0.25\n  eps: 1e-10\n  clip: 0\n"
    "  dropout: 0.2\n  seed: 18446744073709551615\n  eval_every: 0\n  checkpoint_every: 0\n  keep: 1\n"
    "  eval_tokens: 1000\n"
    "run:\n  dir: \"out\\tdir\"\n  workers: 4\n  threads: 3\n  plan: 2x2\n  schedule: interleaved:2\n  split: true\n"
    "  recompute: true\n  offload: false\n  scratch: \"disk 2\"\n  shadow: 'false'\n  respawn: false\n  recovery: "
    "checkpoint\n  heartbeat_ms: 400\n  "
    "patience_ms: 700\n"
    "  join_ms: 20\n  group: 4\n  order: shuffle:9\n  speeds: \"1,0.5,1,2\"\n  memory_gb: 2.5\n";

static const char zones_job[] = "data: {train: x}\nbudget:\n  policy: spot\n  deadline: 9h\n  zones:\n    - name: "
                                "west-2a\n      trace: \"a b.json\"\n"
                                "      spot_price: 0.5\n    - {trace: c.json, on_demand_price: 3, name: east}\n    - "
                                "{name: n, trace: t, spot_price: p.json}\n";

static void check_zones(void **state)
{
    (void)state;
    static const char *const texts[] = {"west-2a=a b.json,0.5", "east=c.json,,3", "n=t,p.json"};
    static const char *const flat[] = {"budget.zones=[\"west-2a=a b.json,0.5\", \"east=c.json,,3\", \"n=t,p.json\"]",
                                       "budget.zones=[{name: west-2a, trace: a b.json, spot_price: 0.5}, "
                                       "{name: east, trace: c.json, on_demand_price: 3}, \n"
                                       "{name: n, trace: t, spot_price: p.json}]"};
    for (size_t i = 0; i < 3; i++) {
        struct job job;
        struct bg_error err = {0};
        const char *const overrides[] = {i ? flat[i - 1] : NULL, NULL};
        if (load(i ? "data: {train: x}\nbudget: {policy: spot, deadline: 9h}\n" : zones_job, overrides, &err, &job) !=
            BG_OK)
            fail_msg("%s", err.text);
        assert_int_equal(job.budget.zones.count, 3);
        for (size_t z = 0; z < 3; z++)
            assert_string_equal(job.budget.zones.items[z], texts[z]);
        job_fini(&job);
    }
}

// Through YAML and back, every key keeps its value.
static void check_round_trip(void **state)
{
    (void)state;
    const char *const texts[] = {example,
                                 every_key,
                                 "data: {train: x}",
                                 "model: {from: runs/a}\ndata: {train: x}",
                                 "model: {family: gpt2, dim: 48, heads: 3}\ndata: {train: x, valid: 0}",
                                 "model: {from: a, context: 32}\ndata: {train: x, tokenizer: t}",
                                 zones_job};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct job first, second;
        struct bg_error err = {0};
        if (load(texts[i], NULL, &err, &first) != BG_OK)
            fail_msg("%s", err.text);
        char *yaml = job_to_yaml(&first);
        if (load(yaml, NULL, &err, &second) != BG_OK)
            fail_msg("%s\n%s", err.text, yaml);
        char *again = job_to_yaml(&second);
        assert_string_equal(yaml, again);
        for (size_t key = 0; key < job_key_count(); key++) {
            struct job_value a, b;
            job_key_get(job_key_at(key), &first, &a);
            job_key_get(job_key_at(key), &second, &b);
            assert_true(a.kind == b.kind && a.items.count == b.items.count);
            for (size_t j = 0; j < a.items.count; j++)
                assert_string_equal(a.items.items[j], b.items.items[j]);
            job_value_fini(&a);
            job_value_fini(&b);
        }
        assert_memory_equal(&first.model.config, &second.model.config, sizeof first.model.config);
        bg_free(yaml);
        bg_free(again);
        job_fini(&first);
        job_fini(&second);
    }
}

static void check_every_key(void **state)
{
    (void)state;
    struct job job;
    struct bg_error err = {0};
    assert_int_equal(load(every_key, NULL, &err, &job), BG_OK);
    const struct model_config *c = &job.model.config;
    assert_true(c->kv_heads == 3 && c->head_dim == 32 && c->ffn == 100 && c->vocab == 512 && job.model.vocab_set);
    assert_true(!c->tie && c->qkv_bias && !c->out_bias && !c->mlp_bias && c->rope_theta == 500000 &&
                c->norm_eps == 1e-6);
    assert_int_equal(job.data.train.count, 4);
    assert_string_equal(job.data.train.items[1], "b: c #.jsonl");
    assert_string_equal(job.data.train.items[2], "null");
    assert_string_equal(job.data.train.items[3], "d\xC3\xA9j\xC3\xA0.txt");
    assert_true(job.data.valid == 0 && job.data.valid_files.count == 1);
    assert_string_equal(job.data.cache, "~");
    assert_true(job.train.lr == 0.123456789012345 && job.train.beta1 == 0.5 && job.train.beta2 == 0.25);
    assert_true(job.train.seed == UINT64_MAX && job.train.schedule == JOB_LINEAR && job.train.warmup == 2);
    assert_string_equal(job.run.dir, "out\tdir");
    assert_string_equal(job.run.order, "shuffle:9");
    assert_true(job.run.workers == 4 && job.run.heartbeat_ms == 400 && job.run.patience_ms == 700 &&
                job.run.join_ms == 20);
    assert_true(job.run.split && strcmp(job.run.recompute, "true") == 0 && !job.run.respawn);
    assert_string_equal(job.run.recovery, "checkpoint");
    job_fini(&job);
}

static void check_overrides(void **state)
{
    (void)state;
    struct job job;
    struct bg_error err = {0};
    const char *const overrides[] = {"train.betas=[0.8, 0.99]", "data.train=[a.txt, 'b c.txt']",
                                     "train.lr=1e-3",           "model.heads=4",
                                     "train.lr=2e-3",           "data.valid=held.txt",
                                     "model.kv_heads=2",        "run.dir=x=y",
                                     "train.steps=20",          NULL};
    if (load("data: {train: q}\ntrain: {lr: 5}\n", overrides, &err, &job) != BG_OK)
        fail_msg("%s", err.text);
    assert_true(job.train.beta1 == 0.8 && job.train.beta2 == 0.99 && job.train.lr == 2e-3 && job.train.warmup == 2);
    assert_true(job.train.min_lr == 2e-4 && job.model.config.head_dim == 96 && job.model.config.kv_heads == 2);
    assert_true(job.data.train.count == 2 && job.data.valid_files.count == 1);
    assert_string_equal(job.data.train.items[1], "b c.txt");
    assert_string_equal(job.run.dir, "x=y");
    job_fini(&job);
}

static void check_families(void **state)
{
    (void)state;
    struct job job;
    struct bg_error err = {0};
    const char *const gpt2[] = {"model.family=gpt2", "model.dim=128", "model.heads=4", "model.context=64", NULL};
    assert_int_equal(load("data: {train: x}", gpt2, &err, &job), BG_OK);
    assert_true(job.model.config.family == MODEL_GPT2 && job.model.config.ffn == 512 && job.model.config.kv_heads == 4);
    job_fini(&job);
    const char *const llama[] = {"model.dim=128", "model.heads=4", "model.bias=all", NULL};
    assert_int_equal(load("data: {train: x}", llama, &err, &job), BG_OK);
    assert_true(job.model.config.ffn == 352 && job.model.config.mlp_bias); // 341.3 rounded up
    job_fini(&job);
}

static void check_from(void **state)
{
    (void)state;
    struct job job;
    struct bg_error err = {0};
    assert_int_equal(load("model: {from: m}\ndata: {train: x}", NULL, &err, &job), BG_OK);
    assert_true(job.model.config.layers == 0 && job.model.config.context == 0 && !job.data.tokenizer);
    assert_string_equal(job.model.from, "m");
    job_fini(&job);
    assert_int_equal(load("model: {from: m, context: 32}\ndata: {train: x}", NULL, &err, &job), BG_OK);
    assert_int_equal(job.model.config.context, 32);
    job_fini(&job);
    // An override can take it back.
    const char *const none[] = {"model.from=null", NULL};
    assert_int_equal(load("model: {from: m}\ndata: {train: x}", none, &err, &job), BG_OK);
    assert_true(!job.model.from && job.model.config.layers == 6);
    job_fini(&job);
}

// Every refusal: what it must say.
static const struct refusal {
    const char *text, *override;
    bg_status status;
    const char *says[4];
} refusals[] = {
    {"data: {train: x}\ntrain:\n  warmupp: 3\n", NULL, BG_INVALID, {"job.yaml:3", "train.warmupp", "train.warmup?"}},
    {"data: {train: x}\nmodle: {dim: 3}\n", NULL, BG_INVALID, {"job.yaml:2", "modle", "model?"}},
    {"data: {train: x}\nlr: 3e-4\n", NULL, BG_INVALID, {"job.yaml:2", "lr", "train.lr?"}},
    {"data: {train: x}\nmodel: {lr: 3e-4}\n", NULL, BG_INVALID, {"job.yaml:2", "model.lr", "train.lr?"}},
    {"data: {train: x}\nzzzzzzzzzzzzzz: 1\n", NULL, BG_INVALID, {"job.yaml:2", "zzzzzz", "--keys"}},
    {"data: {train: x}\nmodel:\n  layers: six\n",
     NULL,
     BG_INVALID,
     {"job.yaml:3", "model.layers", "an integer from 1 to 1024", "\"six\""}},
    {"model: {layers: 0}\n", NULL, BG_INVALID, {"job.yaml:1", "model.layers", "from 1", "\"0\""}},
    {"model: {layers: \"6\"}\n", NULL, BG_INVALID, {"model.layers", "integer", "the text \"6\""}},
    {"model: {layers: 6.5}\n", NULL, BG_INVALID, {"model.layers", "integer", "6.5"}},
    {"model: {layers: -1}\n", NULL, BG_INVALID, {"model.layers", "integer", "-1"}},
    {"model: {layers: [6]}\n", NULL, BG_INVALID, {"model.layers", "integer", "a list of 1"}},
    {"model: {layers: {a: 6}}\n", NULL, BG_INVALID, {"model.layers", "integer", "a mapping"}},
    {"model: {layers: [[6]]}\n", NULL, BG_INVALID, {"model.layers", "integer", "a list inside a list"}},
    {"model: {layers: }\n", NULL, BG_INVALID, {"model.layers", "integer", "nothing"}},
    {"model: {family: bert}\n", NULL, BG_INVALID, {"model.family", "llama, gpt2", "bert"}},
    {"model: {tie: yes}\n", NULL, BG_INVALID, {"model.tie", "true or false", "yes"}},
    {"train: {lr: fast}\n", NULL, BG_INVALID, {"train.lr", "a number", "fast"}},
    {"train: {lr: nan}\n", NULL, BG_INVALID, {"train.lr", "a number", "nan"}},
    {"train: {lr: .inf}\n", NULL, BG_INVALID, {"train.lr", "a number"}},
    {"train: {lr: 0x10}\n", NULL, BG_INVALID, {"train.lr", "a number"}},
    {"train: {lr: 1e999}\n", NULL, BG_INVALID, {"train.lr", "a number"}},
    {"train: {dropout: 1}\n", NULL, BG_INVALID, {"train.dropout", "from 0 to below 1", "\"1\""}},
    {"train: {eps: 0}\n", NULL, BG_INVALID, {"train.eps", "above 0"}},
    {"train: {betas: [0.9]}\n", NULL, BG_INVALID, {"train.betas", "two numbers", "a list of 1"}},
    {"train: {betas: 0.9}\n", NULL, BG_INVALID, {"train.betas", "two numbers"}},
    {"train: {betas: [0.9, 1]}\n", NULL, BG_INVALID, {"train.betas", "below 1"}},
    {"train: {seed: 18446744073709551616}\n", NULL, BG_INVALID, {"train.seed", "18446744073709551615"}},
    {"train: {steps: 1e3}\n", NULL, BG_INVALID, {"train.steps", "an integer"}},
    {"data: {train: []}\n", NULL, BG_INVALID, {"job.yaml:1", "data.train", "a list of 0"}},
    {"data: {train: [\"\"]}\n", NULL, BG_INVALID, {"data.train"}},
    {"data: {train: x, valid: 1.5}\n", NULL, BG_INVALID, {"data.valid", "below 1", "1.5"}},
    {"data: {train: x, utf8: latin1}\n", NULL, BG_INVALID, {"data.utf8", "keep, error, replace", "latin1"}},
    {"model: {dim: 12}\n", NULL, BG_INVALID, {"job.yaml", "data.train"}},
    {"", NULL, BG_INVALID, {"data.train"}},
    {"# nothing\n", NULL, BG_INVALID, {"data.train"}},
    {"data: {train: x}\ndata: {valid: 0.2}\n", NULL, BG_INVALID, {"job.yaml:2", "data", "second time"}},
    {"data: {train: x, train: y}\n", NULL, BG_INVALID, {"job.yaml:1", "data.train", "second time"}},
    {"data: &a {train: x}\n", NULL, BG_FORMAT, {"job.yaml:1", "anchors"}},
    {"data: {train: &a x, field: *a}\n", NULL, BG_FORMAT, {"job.yaml:1", "anchors"}},
    {"data: {train: *a}\n", NULL, BG_FORMAT, {"job.yaml:1", "anchors"}},
    {"data: {train: !!str x}\n", NULL, BG_FORMAT, {"job.yaml:1", "tags"}},
    {"data:\n  <<: {train: x}\n", NULL, BG_FORMAT, {"job.yaml:2", "merge"}},
    {"data: {train: x}\n---\ndata: {train: y}\n", NULL, BG_FORMAT, {"job.yaml:2", "second document"}},
    {"data: {train: x\n", NULL, BG_FORMAT, {"job.yaml:", "YAML"}},
    {"data: {train: \"\\0\"}\n", NULL, BG_FORMAT, {"job.yaml:1", "zero byte"}},
    {"data: {train: \xff}\n", NULL, BG_FORMAT, {"job.yaml:1", "YAML"}},
    {"- a\n- b\n", NULL, BG_FORMAT, {"job.yaml:1", "sections"}},
    {"just a text\n", NULL, BG_FORMAT, {"job.yaml:1", "sections"}},
    {"data: x\n", NULL, BG_INVALID, {"job.yaml:1", "data", "keys"}},
    {"[a]: 1\n", NULL, BG_FORMAT, {"job.yaml:1", "name of a key"}},
    {"data: {train: x}\nrun: {workers: 3, plan: 2x2}\n", NULL, BG_INVALID, {"job.yaml:2", "run.workers", "4 seats"}},
    {"data: {train: x}\nrun: {plan: 9x1}\n", NULL, BG_INVALID, {"job.yaml:2", "run.plan", "9 stages", "8 units"}},
    {"data: {train: x}\nrun: {plan: 5x1, schedule: interleaved}\n", NULL, BG_INVALID, {"run.plan", "10 stages"}},
    {"data: {train: x}\nrun: {plan: 1x9}\n", NULL, BG_INVALID, {"run.plan", "9 replicas", "8 micro-batches"}},
    {"data: {train: x}\nrun: {schedule: zigzag}\n", NULL, BG_INVALID, {"job.yaml:2", "run.schedule", "gpipe"}},
    {"data: {train: x}\nrun: {shadow: off}\n", NULL, BG_INVALID, {"run.shadow", "auto, true, false"}},
    {"data: {train: x}\nrun: {recovery: pray}\n", NULL, BG_INVALID, {"run.recovery", "live, checkpoint"}},
    {"data: {train: x}\nrun: {order: random}\n", NULL, BG_INVALID, {"run.order", "shuffle:SEED"}},
    {"data: {train: x}\nbudget:\n  policy: spot\n  deadline: 9h\n  zones: [{name: a}]\n",
     NULL,
     BG_INVALID,
     {"job.yaml:5", "budget.zones", "zone a", "trace is missing"}},
    {"data: {train: x}\nbudget:\n  policy: spot\n  deadline: 9h\n  zones: [{trace: t}]\n",
     NULL,
     BG_INVALID,
     {"job.yaml:5", "budget.zones", "name is missing"}},
    {"data: {train: x}\nbudget:\n  policy: spot\n  deadline: 9h\n  zones: [{name: a, trace: t, price: 1}]\n",
     NULL,
     BG_INVALID,
     {"budget.zones", "zone a", "unknown key price"}},
    {"data: {train: x}\nbudget:\n  policy: spot\n  deadline: 9h\n  zones: [{name: a, trace: t, name: b}]\n",
     NULL,
     BG_INVALID,
     {"budget.zones", "zone a", "twice"}},
    {"data: {train: x}\nbudget:\n  policy: spot\n  deadline: 9h\n  zones: [{name: a, trace: \"t,1\"}]\n",
     NULL,
     BG_INVALID,
     {"budget.zones", "zone a", "trace", "comma"}},
    {"data: {train: x}\nbudget:\n  policy: spot\n  deadline: 9h\n  zones: [{name: a, trace: t, on_demand_price: x}]\n",
     NULL,
     BG_INVALID,
     {"zone a", "on-demand price", "\"x\""}},
    {"data: {train: x}\nbudget:\n  policy: spot\n  deadline: 9h\n  zones: [{name: a, trace: [t]}]\n",
     NULL,
     BG_INVALID,
     {"job.yaml:5", "budget.zones", "a list inside a list"}},
    {"data: {train: x}\nbudget:\n  policy: spot\n  deadline: 9h\n  zones: [{name: a, trace: t}, b=t]\n",
     NULL,
     BG_INVALID,
     {"budget.zones", "a list inside a list"}},
    {"data: {train: x}\nbudget:\n  policy: spot\n  deadline: 9h\n  zones: [b=t, {name: a, trace: t}]\n",
     NULL,
     BG_INVALID,
     {"budget.zones", "a list inside a list"}},
    {"data: {train: x}\nbudget:\n  policy: spot\n  deadline: 9h\n  zones: [b=t, b=u]\n",
     NULL,
     BG_INVALID,
     {"job.yaml:5", "budget.zones", "zone b", "twice"}},
    {"data: {train: x}\nbudget:\n  policy: spot\n  deadline: 9h\n  zones: [b]\n",
     NULL,
     BG_INVALID,
     {"budget.zones", "NAME=TRACE"}},
    {"data: {train: x}\nbudget:\n  policy: spot\n  deadline: 9h\n  zones: []\n",
     NULL,
     BG_INVALID,
     {"budget.zones", "0 zones"}},
    {"data: {train: x}\nbudget:\n  policy: spot\n  deadline: 9h\n  zones: {a: t}\n",
     NULL,
     BG_INVALID,
     {"budget.zones", "a mapping"}},
    {"data: {train: x}\nbudget:\n  policy: spot\n  deadline: 9h\n  zones: [{\"\": t}]\n",
     NULL,
     BG_FORMAT,
     {"job.yaml:5", "name of a key"}},
    {"data: {train: x}\nbudget:\n  policy: spot\n  deadline: 9h\n  zones: [a=t]\n  trace: t\n",
     NULL,
     BG_INVALID,
     {"job.yaml:5", "budget.zones", "budget.trace"}},
    {"data: {train: x}\nbudget:\n  policy: spot\n  deadline: 9h\n  zones: [a=t]\n  fleet_policy: parcae\n",
     NULL,
     BG_INVALID,
     {"budget"}},
    {"data: {train: [{a: b}]}\n", NULL, BG_INVALID, {"job.yaml:1", "data.train", "a list of mappings"}},
    {"data: {train: x}\nmodel:\n  dim: 100\n  heads: 6\n",
     NULL,
     BG_INVALID,
     {"job.yaml:3", "model.dim", "model.heads"}},
    {"data: {train: x}\nmodel:\n  kv_heads: 4\n", NULL, BG_INVALID, {"job.yaml:3", "model.kv_heads"}},
    {"data: {train: x}\nmodel: {from: m, dim: 3}\n", NULL, BG_INVALID, {"job.yaml:2", "model.dim", "model.from"}},
    {"data: {train: x}\ntrain: {lr: 1, min_lr: 2}\n", NULL, BG_INVALID, {"job.yaml:2", "train.min_lr"}},
    {"data: {train: x}\nmodel: {family: gpt2, bias: none}\n", NULL, BG_INVALID, {"job.yaml:2", "model.bias", "gpt2"}},
    {"data: {train: x}\n", "train.lrr=3", BG_INVALID, {"train.lrr=3", "unknown key", "train.lr?"}},
    {"data: {train: x}\n", "train.lr=x", BG_INVALID, {"train.lr=x", "train.lr", "a number"}},
    {"data: {train: x}\n", "train.lr=", BG_INVALID, {"train.lr=", "nothing"}},
    {"data: {train: x}\n", "train.lr=[1", BG_FORMAT, {"train.lr=[1", "YAML"}},
    {"data: {train: x}\n", "train.lr={a: 1}", BG_INVALID, {"train.lr", "a mapping"}},
    {"data: {train: x}\n", "lr=3", BG_INVALID, {"lr=3", "section.key=value"}},
    {"data: {train: x}\n", "train.lr", BG_INVALID, {"train.lr", "section.key=value"}},
    {"data: {train: x}\n", "run.dir=\xff", BG_INVALID, {"UTF-8"}},
};

static void check_refusals(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        const struct refusal *r = &refusals[i];
        const char *const overrides[] = {r->override, NULL};
        struct job job;
        struct bg_error err = {0};
        bg_status status = load(r->text, overrides, &err, &job);
        if (status != r->status)
            fail_msg("%s %s: status %d, expected %d: %s", r->text, r->override ? r->override : "", status, r->status,
                     err.text);
        for (size_t j = 0; j < 4 && r->says[j]; j++)
            if (!strstr(err.text, r->says[j]))
                fail_msg("%s %s: no '%s' in: %s", r->text, r->override ? r->override : "", r->says[j], err.text);
    }
}

static void check_bounds(void **state)
{
    (void)state;
    struct job job;
    struct bg_error err = {0};
    // Deep nesting, endless lists, too many bytes: refused before they cost anything.
    struct bg_str text = {0};
    bg_str_add(&text, "data: {train: ");
    for (int i = 0; i < 100000; i++)
        bg_str_add(&text, "[");
    assert_int_not_equal(load(text.data, NULL, &err, &job), BG_OK);
    bg_str_reset(&text);
    bg_str_add(&text, "data: {train: [");
    for (int i = 0; i <= JOB_ITEMS_MAX; i++)
        bg_str_add(&text, "a,");
    bg_str_add(&text, "]}");
    assert_int_equal(load(text.data, NULL, &err, &job), BG_FORMAT);
    assert_non_null(strstr(err.text, "65536"));
    while (text.size <= JOB_TEXT_MAX)
        bg_str_add(&text, "################################################################\n");
    assert_int_equal(load(text.data, NULL, &err, &job), BG_FORMAT);
    assert_non_null(strstr(err.text, "too many"));
    bg_str_fini(&text);
}

static void check_names(void **state)
{
    (void)state;
    const char *const cases[][2] = {
        {"a/b/wiki.jsonl.gz", "runs/wiki"},  {"texts/", "runs/texts"}, {".", "runs/run"},
        {"my.corpus.txt", "runs/my.corpus"}, {"..", "runs/run"},       {".hidden", "runs/.hidden"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct job job;
        struct bg_error err = {0};
        assert_int_equal(job_load(NULL, cases[i][0], NULL, 0, &err, &job), BG_OK);
        assert_string_equal(job.run.dir, cases[i][1]);
        job_fini(&job);
    }
    struct job job;
    struct bg_error err = {0};
    const char *const override = "data.train=[x/books, y]";
    assert_int_equal(job_load(NULL, NULL, &override, 1, &err, &job), BG_OK);
    assert_string_equal(job.run.dir, "runs/books");
    job_fini(&job);
    assert_int_equal(job_load(NULL, NULL, NULL, 0, &err, &job), BG_INVALID);
}

static void check_schedule(void **state)
{
    (void)state;
    struct job job = {0};
    job.train.lr = 1e-3;
    job.train.min_lr = 1e-4;
    job.train.warmup = 100;
    job.train.steps = 2000;
    assert_true(job_lr(&job, 0) == 1e-3 * 1 / 101);
    assert_true(job_lr(&job, 99) == 1e-3 * 100 / 101);
    assert_true(job_lr(&job, 100) == 1e-3);
    assert_true(fabs(job_lr(&job, 1050) - 5.5e-4) < 1e-18); // half way
    assert_true(job_lr(&job, 2000) == 1e-4 && job_lr(&job, 99999) == 1e-4);
    for (uint64_t step = 100; step < 2000; step++) {
        double want = 1e-4 + 0.5 * (1 + cos(3.14159265358979323846 * (double)(step - 100) / 1900)) * 9e-4;
        assert_true(fabs(job_lr(&job, step) - want) < 1e-17);
        assert_true(job_lr(&job, step + 1) < job_lr(&job, step));
    }
    job.train.schedule = JOB_LINEAR;
    assert_true(job_lr(&job, 100) == 1e-3 && fabs(job_lr(&job, 1050) - 5.5e-4) < 1e-18);
    job.train.schedule = JOB_CONSTANT;
    assert_true(job_lr(&job, 50) == 1e-3 * 51 / 101 && job_lr(&job, 1999) == 1e-3);
    job.train.schedule = JOB_COSINE;
    job.train.warmup = 0;
    assert_true(job_lr(&job, 0) == 1e-3);
    job.train.warmup = 3000; // longer than the job
    assert_true(job_lr(&job, 1999) == 1e-3 * 2000 / 3001);
}

static void check_help(void **state)
{
    (void)state;
    char *help = job_help();
    for (size_t i = 0; i < job_key_count(); i++)
        assert_non_null(strstr(help, job_key_at(i)->name));
    assert_non_null(strstr(help, "working directory"));
    bg_free(help);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spread),           cmocka_unit_test(speeds),         cmocka_unit_test(check_defaults),
        cmocka_unit_test(check_round_trip), cmocka_unit_test(check_zones),    cmocka_unit_test(check_every_key),
        cmocka_unit_test(check_overrides),  cmocka_unit_test(check_families), cmocka_unit_test(check_from),
        cmocka_unit_test(check_refusals),   cmocka_unit_test(check_bounds),   cmocka_unit_test(check_names),
        cmocka_unit_test(check_schedule),   cmocka_unit_test(check_help),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
