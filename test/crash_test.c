// A run that dies anywhere goes on from its newest checkpoint and ends with the same bits. Faults are injected by
// replacing entries of the environment's table: at the k-th effect on the disk the process "dies" (nothing after it
// happens, a write may happen by half) or the disk is full; every k is tried. Then real processes are killed with
// SIGKILL at random times.
#include "scenario.h"

#include "train/checkpoint.h"

#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <time.h>

extern char **environ;

static const char overrides[] = "train.steps=4 train.micro_batches=3 train.dropout=0.1 train.eval_every=2 "
                                "train.checkpoint_every=2 train.keep=1 run.threads=1";

// ---- Faults ----

enum fault { COUNT, DEATH, FULL };

static struct {
    const struct bg_env_ops *inner;
    struct bg_env_ops ops;
    enum fault fault;
    uint64_t effects, at; // the effect at which it happens
} injected;

// True: this effect must not happen any more.
static bool stopped(void)
{
    uint64_t effect = injected.effects++;
    return injected.fault == DEATH && effect >= injected.at;
}

static bg_status file_open(struct bg_env *env, const char *path, enum bg_file_mode mode, struct bg_error *err,
                           struct bg_file **file)
{
    return stopped() ? bg_fail(err, BG_IO, "dead") : injected.inner->file_open(env, path, mode, err, file);
}

static bg_status file_write(struct bg_env *env, struct bg_file *file, const void *bytes, size_t size,
                            struct bg_error *err)
{
    bool last = injected.fault == DEATH && injected.effects == injected.at;
    if (stopped()) {
        if (last) // torn: half of it is on the disk
            (void)injected.inner->file_write(env, file, bytes, size / 2, err);
        return bg_fail(err, BG_IO, "dead");
    }
    if (injected.fault == FULL && injected.effects > injected.at) {
        (void)injected.inner->file_write(env, file, bytes, size / 3, err);
        return bg_fail(err, BG_FULL, "no space left on device");
    }
    return injected.inner->file_write(env, file, bytes, size, err);
}

static bg_status file_sync(struct bg_env *env, struct bg_file *file, struct bg_error *err)
{
    return stopped() ? bg_fail(err, BG_IO, "dead") : injected.inner->file_sync(env, file, err);
}

static bg_status path_rename(struct bg_env *env, const char *from, const char *to, struct bg_error *err)
{
    return stopped() ? bg_fail(err, BG_IO, "dead") : injected.inner->path_rename(env, from, to, err);
}

static bg_status path_remove(struct bg_env *env, const char *path, struct bg_error *err)
{
    return stopped() ? bg_fail(err, BG_IO, "dead") : injected.inner->path_remove(env, path, err);
}

static bg_status path_sync(struct bg_env *env, const char *path, struct bg_error *err)
{
    return stopped() ? bg_fail(err, BG_IO, "dead") : injected.inner->path_sync(env, path, err);
}

static bg_status make_directories(struct bg_env *env, const char *path, struct bg_error *err)
{
    return stopped() ? bg_fail(err, BG_IO, "dead") : injected.inner->make_directories(env, path, err);
}

static void inject(struct bg_env *env, enum fault fault, uint64_t at)
{
    if (!injected.inner)
        injected.inner = env->ops;
    injected.ops = *injected.inner;
    injected.ops.file_open = file_open;
    injected.ops.file_write = file_write;
    injected.ops.file_sync = file_sync;
    injected.ops.path_rename = path_rename;
    injected.ops.path_remove = path_remove;
    injected.ops.path_sync = path_sync;
    injected.ops.make_directories = make_directories;
    injected.fault = fault;
    injected.effects = 0;
    injected.at = at;
    env->ops = &injected.ops;
}

// Whatever has the name of a checkpoint is a whole one.
static void check_checkpoints(struct bg_env *env, const struct scenario *s)
{
    char *run = bg_format("%s/%s", s->directory, s->run);
    uint64_t *steps = NULL;
    size_t count = 0;
    struct bg_error err = {0};
    if (checkpoint_list(env, run, &err, &steps, &count))
        fail_msg("%s", err.text);
    for (size_t i = 0; i < count; i++) {
        char *path = checkpoint_path(run, steps[i]);
        struct manifest m;
        if (checkpoint_verify(env, path, &err, &m))
            fail_msg("%s", err.text);
        manifest_fini(&m);
        bg_free(path);
    }
    bg_free(steps);
    bg_free(run);
}

static void must_equal(const struct trainer_result *a, const struct trainer_result *b, const char *what, uint64_t at)
{
    if (strcmp(a->curve_sha256, b->curve_sha256) != 0 || strcmp(a->weights_sha256, b->weights_sha256) != 0)
        fail_msg("IDENTITY BROKEN: %s at effect %llu", what, (unsigned long long)at);
    assert_true(a->valid_loss == b->valid_loss);
}

// Resumes, or starts where the death came before there was a run.
static struct trainer_result go_on(struct bg_env *env, struct scenario s)
{
    struct bg_error err = {0};
    struct trainer_result result = {0};
    s.resume = true;
    bg_status status = scenario_run(env, &s, &err, &result);
    if (status == BG_NOT_FOUND) {
        s.resume = false;
        status = scenario_run(env, &s, &err, &result);
    }
    if (status)
        fail_msg("effect %llu: %s", (unsigned long long)injected.at, err.text);
    return result;
}

// make check-full looks further.
static bool full_check(void)
{
    return getenv("BRIGADE_CHECK_FULL") != NULL;
}

static void every_effect(enum fault fault, const char *name, uint64_t stride)
{
    char *directory = scenario_directory();
    struct bg_env *env = scenario_env(1, BG_ISA_AVX2 | BG_ISA_AVX512);
    injected.inner = NULL;
    inject(env, COUNT, 0);
    struct scenario s = {.directory = directory, .run = "run", .overrides = overrides};
    struct trainer_result whole = scenario_must(env, &s);
    uint64_t effects = injected.effects;
    assert_true(effects > 50);
    for (uint64_t at = 0; at < effects; at += stride) {
        env->ops = injected.inner;
        scenario_remove(&s);
        inject(env, fault, at);
        struct bg_error err = {0};
        struct trainer_result result = {0};
        bg_status status = scenario_run(env, &s, &err, &result);
        env->ops = injected.inner;
        if (fault == FULL && status)
            assert_int_equal(status, BG_FULL);
        check_checkpoints(env, &s);
        result = go_on(env, s);
        must_equal(&result, &whole, name, at);
    }
    os_env_destroy(env);
    scenario_clean(directory);
}

static void death_at_every_effect(void **state)
{
    (void)state;
    every_effect(DEATH, "death", 1);
}

static void full_disk_at_every_effect(void **state)
{
    (void)state;
    every_effect(FULL, "full disk", full_check() ? 1 : 3);
}

// ---- Real deaths ----

// A process of its own: runs the job of argv[2] to the end, resuming where there is something to resume.
static int child_main(const char *directory)
{
    struct bg_env *env = scenario_env(1, BG_ISA_AVX2 | BG_ISA_AVX512);
    struct scenario s = {.directory = directory, .run = "killed", .overrides = overrides};
    go_on(env, s);
    os_env_destroy(env);
    return 0;
}

static pid_t start_child(const char *directory)
{
    char self[] = "/proc/self/exe";
    char option[] = "--child";
    char *path = bg_strdup(directory);
    char *argv[] = {self, option, path, NULL};
    pid_t pid = -1;
    assert_int_equal(posix_spawn(&pid, "/proc/self/exe", NULL, NULL, argv, environ), 0);
    bg_free(path);
    return pid;
}

static void killed_at_random_times(void **state)
{
    (void)state;
    char *directory = scenario_directory();
    struct bg_env *env = scenario_env(1, BG_ISA_AVX2 | BG_ISA_AVX512);
    struct scenario s = {.directory = directory, .run = "whole", .overrides = overrides};
    struct trainer_result whole = scenario_must(env, &s);
    s.run = "killed";
    uint64_t seed = 12345;
    int kills = 0;
    for (int rounds = full_check() ? 60 : 3; rounds > 0; rounds--) {
        for (int attempt = 0;; attempt++) {
            pid_t pid = start_child(directory);
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            // Longer with every attempt, so that it gets there in the end on any machine.
            long micros = (long)((seed >> 33) % 20000) + 3000L * attempt;
            nanosleep(&(struct timespec){.tv_sec = micros / 1000000, .tv_nsec = micros % 1000000 * 1000}, NULL);
            kill(pid, SIGKILL);
            int how = 0;
            assert_int_equal(waitpid(pid, &how, 0), pid);
            if (WIFEXITED(how)) {
                assert_int_equal(WEXITSTATUS(how), 0);
                break;
            }
            kills++;
            check_checkpoints(env, &s);
        }
        s.resume = true;
        struct trainer_result result = scenario_must(env, &s);
        s.resume = false;
        assert_true(result.nothing_to_do);
        must_equal(&result, &whole, "kill -9", 0);
        scenario_remove(&s);
    }
    print_message("%d kills\n", kills);
    os_env_destroy(env);
    scenario_clean(directory);
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--child") == 0)
        return child_main(argv[2]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(death_at_every_effect),
        cmocka_unit_test(full_disk_at_every_effect),
        cmocka_unit_test(killed_at_random_times),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
