// What scenario tests share: an environment of chosen threads and ISA, a small text, tiny jobs, temporary directories.
#ifndef TEST_SCENARIO_H
#define TEST_SCENARIO_H

#include "base/mem.h"
#include "base/str.h"
#include "os/live.h"
#include "train/trainer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static inline struct bg_env *scenario_env(unsigned threads, unsigned isa)
{
    struct bg_env *env = NULL;
    struct bg_error err;
    if (os_env_create(&(struct os_options){.threads = threads, .keep_caller = true}, &err, &env))
        fail_msg("%s", err.text);
    env->isa &= isa;
    return env;
}

// Sentences over a small vocabulary from a linear congruential generator: something to learn, the same everywhere.
static inline void scenario_write_text(const char *path, size_t bytes)
{
    static const char *const words[] = {"the", "river",  "bends", "slowly", "under",  "old",   "stones", "and",
                                        "we",  "follow", "it",    "home",   "before", "night", "falls",  "again"};
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    uint64_t state = 42;
    for (size_t written = 0; written < bytes;) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        const char *word = words[(state >> 33) % 16];
        written += (size_t)fprintf(file, "%s%s", word, (state >> 40) % 9 == 0 ? ".\n" : " ");
    }
    assert_int_equal(fclose(file), 0);
}

// A new directory with corpus.txt in it; scenario_clean() removes it.
static inline char *scenario_directory(void)
{
    // In memory where possible: hundreds of tiny checkpoints, each waited for, wear a disk out for nothing.
    const char *parent = getenv("TMPDIR") ? getenv("TMPDIR") : access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    char *path = bg_format("%s/brigade-test-XXXXXX", parent);
    assert_non_null(mkdtemp(path));
    char *corpus = bg_format("%s/corpus.txt", path);
    scenario_write_text(corpus, 6000);
    bg_free(corpus);
    return path;
}

static inline void scenario_clean(char *directory)
{
    struct bg_env *env = scenario_env(1, 0);
    struct bg_error err;
    (void)env->ops->path_remove(env, directory, &err);
    os_env_destroy(env);
    bg_free(directory);
}

// A job is a list of overrides in one string, separated by blanks.
struct scenario {
    const char *directory; // holds corpus.txt; the run goes into <directory>/<run>
    const char *run;
    const char *overrides;
    const char *more; // further ones, or NULL
    bool resume;
    uint64_t stop_after;
    const struct trainer_observer *observer;
};

static const char scenario_tiny[] =
    "model.layers=2 model.dim=32 model.heads=4 model.ffn=48 model.context=16 train.micro_batch=2 "
    "train.lr=0.01 train.warmup=2 train.eval_every=0 train.checkpoint_every=0";

static inline bg_status scenario_run(struct bg_env *env, const struct scenario *s, struct bg_error *err,
                                     struct trainer_result *result)
{
    struct bg_strlist list = {0};
    const char *const parts[] = {scenario_tiny, s->overrides, s->more};
    for (size_t i = 0; i < 3; i++)
        if (parts[i] && parts[i][0])
            bg_strlist_split(&list, parts[i], ' ');
    char *run = bg_format("run.dir=%s/%s", s->directory, s->run);
    bg_strlist_add(&list, run);
    bg_free(run);
    char *corpus = bg_format("%s/corpus.txt", s->directory);
    struct job job;
    bg_status status = job_load(env, corpus, (const char *const *)list.items, list.count, err, &job);
    bg_free(corpus);
    bg_strlist_fini(&list);
    if (status)
        return status;
    struct trainer_options options = {
        .job = &job, .resume = s->resume, .stop_after = s->stop_after, .observer = s->observer};
    status = trainer_run(env, &options, err, result);
    job_fini(&job);
    return status;
}

// Runs to the end or fails the test.
static inline struct trainer_result scenario_must(struct bg_env *env, const struct scenario *s)
{
    struct bg_error err = {0};
    struct trainer_result result = {0};
    bg_status status = scenario_run(env, s, &err, &result);
    if (status && status != BG_STOPPED)
        fail_msg("%s %s: %s", s->run, s->more ? s->more : "", err.text);
    return result;
}

static inline void scenario_remove(const struct scenario *s)
{
    char *path = bg_format("%s/%s", s->directory, s->run);
    struct bg_env *env = scenario_env(1, 0);
    struct bg_error err;
    (void)env->ops->path_remove(env, path, &err);
    os_env_destroy(env);
    bg_free(path);
}

#endif
