// What a worker loads: the units it holds and nothing else, from the initial weights and from a checkpoint; and that a
// checkpoint of another job is refused.
#include "train/worker_job.h"

#include "base/mem.h"
#include "os/live.h"
#include "train/trainer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

struct fixture {
    struct bg_env *env;
    char directory[64];
    struct job job;
    struct worker_source *source;
};

static void must(bg_status status, const struct bg_error *err)
{
    if (status)
        fail_msg("%s", err->text);
}

static void make_job(struct fixture *f, const char *more, struct job *job)
{
    struct bg_error err = {0};
    char corpus[96], run[96];
    snprintf(corpus, sizeof corpus, "%s/corpus.txt", f->directory);
    snprintf(run, sizeof run, "run.dir=%s/run", f->directory);
    const char *const overrides[] = {run,
                                     "model.layers=2",
                                     "model.dim=16",
                                     "model.heads=2",
                                     "model.context=16",
                                     "train.steps=2",
                                     "train.micro_batch=1",
                                     "train.micro_batches=2",
                                     "train.warmup=0",
                                     more};
    must(job_load(f->env, corpus, overrides, sizeof overrides / sizeof *overrides, &err, job), &err);
}

static int setup(void **state)
{
    struct fixture *f = bg_alloc(sizeof *f);
    struct bg_error err = {0};
    must(os_env_create(&(struct os_options){.threads = 1}, &err, &f->env), &err);
    snprintf(f->directory, sizeof f->directory, "/tmp/brigade-worker-job-XXXXXX");
    assert_non_null(mkdtemp(f->directory));
    char path[96], text[4000];
    snprintf(path, sizeof path, "%s/corpus.txt", f->directory);
    for (size_t i = 0; i < sizeof text; i++)
        text[i] = (char)('a' + i * i % 23);
    must(env_write_file(f->env, path, text, sizeof text, &err), &err);
    make_job(f, "train.seed=1", &f->job);
    struct trainer_result result;
    must(trainer_run(f->env, &(struct trainer_options){.job = &f->job}, &err, &result), &err);
    must(worker_source_open(f->env, &f->job, &err, &f->source), &err);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    struct bg_error err;
    worker_source_close(f->source);
    job_fini(&f->job);
    assert_int_equal(f->env->ops->path_remove(f->env, f->directory, &err), BG_OK);
    os_env_destroy(f->env);
    bg_free(f);
    return 0;
}

struct sets {
    float *set[3]; // weights, m, v
};

static struct sets load(struct fixture *f, enum message_source from, const uint8_t *units)
{
    const struct worker_job *job = worker_source_job(f->source);
    struct sets s;
    for (size_t i = 0; i < 3; i++) {
        s.set[i] = bg_alloc_array(job->model->floats, sizeof(float));
        for (uint64_t j = 0; j < job->model->floats; j++)
            s.set[i][j] = 77;
    }
    struct optim_state state = {s.set[0], s.set[1], s.set[2]};
    struct bg_error err = {0};
    must(job->load(job->arg, from, 2, units, &state, &err), &err);
    return s;
}

static void free_sets(struct sets *s)
{
    for (size_t i = 0; i < 3; i++)
        bg_free(s->set[i]);
}

// A tied head uses the token table, which is the embedding's.
static bool holds(const struct model *model, const uint8_t *units, const struct model_param *p)
{
    return units[p->unit] || (p->role == MODEL_ROLE_EMBED && units[model->unit_count - 1]);
}

static void loads_what_it_holds(void **state)
{
    struct fixture *f = *state;
    const struct model *model = worker_source_job(f->source)->model;
    static const uint8_t all[] = {1, 1, 1, 1}, some[][4] = {{1, 1, 0, 0}, {0, 0, 1, 0}, {0, 0, 0, 1}, {0, 0, 0, 0}};
    assert_int_equal(model->unit_count, 4);
    const enum message_source sources[] = {MESSAGE_SOURCE_INIT, MESSAGE_SOURCE_CHECKPOINT};
    for (size_t from = 0; from < 2; from++) {
        struct sets whole = load(f, sources[from], all);
        for (size_t u = 0; u < 4; u++) {
            struct sets part = load(f, sources[from], some[u]);
            for (uint32_t p = 0; p < model->param_count; p++) {
                const struct model_param *param = &model->params[p];
                for (size_t i = 0; i < 3; i++) {
                    const float *found = part.set[i] + param->offset, *wanted = whole.set[i] + param->offset;
                    if (holds(model, some[u], param))
                        assert_memory_equal(found, wanted, param->count * sizeof *found);
                    else
                        assert_true(found[0] == 77 && found[param->count - 1] == 77);
                }
            }
            free_sets(&part);
        }
        bool moved = false;
        for (uint64_t i = 0; i < model->params[0].count; i++)
            moved |= whole.set[1][model->params[0].offset + i] != 0;
        assert_int_equal(moved, sources[from] == MESSAGE_SOURCE_CHECKPOINT); // moments are zero before the first step
        free_sets(&whole);
    }
}

static void refuses_another_job(void **state)
{
    struct fixture *f = *state;
    struct job other;
    make_job(f, "train.seed=2", &other);
    struct worker_source *source = NULL;
    struct bg_error err = {0};
    must(worker_source_open(f->env, &other, &err, &source), &err);
    const struct worker_job *job = worker_source_job(source);
    struct optim_state none = {0};
    assert_int_equal(job->load(job->arg, MESSAGE_SOURCE_CHECKPOINT, 2, NULL, &none, &err), BG_MISMATCH);
    assert_non_null(strstr(err.text, "step-2"));
    assert_int_equal(job->load(job->arg, MESSAGE_SOURCE_CHECKPOINT, 9, NULL, &none, &err), BG_NOT_FOUND);
    assert_true(job->lr(job->arg, 0) == job_lr(&other, 0));
    worker_source_close(source);
    job_fini(&other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(loads_what_it_holds), cmocka_unit_test(refuses_another_job)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
