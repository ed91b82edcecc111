// parallel_for: every index once, for any count and number of lanes; nested calls; a burst of small jobs with
// pauses that make lanes sleep; the float mode of pool threads; nothing allocated.
// labels: threads
#define _GNU_SOURCE // affinity
#include "os/live.h"

#include "base/mem.h"

#include <fenv.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

static struct bg_env *make_env(unsigned threads)
{
    struct bg_error err = {0};
    struct bg_env *env = NULL;
    if (os_env_create(&(struct os_options){.threads = threads, .pin = true}, &err, &env))
        fail_msg("%s", err.text);
    return env;
}

// Workers of one host get places side by side; a place beyond the last starts over.
static void one_lane_at_a_place(void **state)
{
    (void)state;
    cpu_set_t before, now;
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    int cpus = CPU_COUNT(&before), place = 0;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET((size_t)cpu, &before))
            continue;
        for (int round = 0; round < 2; round++) {
            struct bg_error err = {0};
            struct bg_env *env = NULL;
            struct os_options o = {.threads = 1, .pin = true, .first_cpu = (unsigned)(1 + place + round * cpus)};
            assert_int_equal(os_env_create(&o, &err, &env), BG_OK);
            assert_int_equal(sched_getaffinity(0, sizeof now, &now), 0);
            assert_true(CPU_COUNT(&now) == 1 && CPU_ISSET((size_t)cpu, &now));
            os_env_destroy(env);
        }
        place++;
    }
    assert_int_equal(sched_getaffinity(0, sizeof now, &now), 0);
    assert_true(CPU_EQUAL(&before, &now));
}

struct job {
    struct bg_env *env;
    unsigned char *seen;
    unsigned lanes;
    atomic_uint inner, wrong;
};

static void mark(void *arg, size_t index, unsigned lane)
{
    struct job *job = arg;
    job->seen[index]++; // one writer each: TSan checks that
    if (lane >= job->lanes)
        atomic_fetch_add(&job->wrong, 1);
}

static void every_index_once(void **state)
{
    (void)state;
    static unsigned char seen[10000];
    const size_t counts[] = {0, 1, 2, 3, 7, 64, 1000, 10000};
    for (unsigned threads = 1; threads <= 5; threads++) {
        struct bg_env *env = make_env(threads);
        assert_int_equal(env->threads, threads);
        struct job job = {.env = env, .seen = seen, .lanes = threads};
        for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
            memset(seen, 0, sizeof seen);
            env_parallel_for(env, counts[c], mark, &job);
            for (size_t i = 0; i < sizeof seen; i++)
                assert_int_equal(seen[i], i < counts[c]);
        }
        assert_int_equal(job.wrong, 0);
        os_env_destroy(env);
    }
}

static void count_inner(void *arg, size_t index, unsigned lane)
{
    struct job *job = arg;
    (void)index;
    (void)lane;
    atomic_fetch_add(&job->inner, 1);
}

static void start_inner(void *arg, size_t index, unsigned lane)
{
    struct job *job = arg;
    (void)lane;
    env_parallel_for(job->env, index % 5, count_inner, job);
}

static void nested_runs_inline(void **state)
{
    (void)state;
    struct bg_env *env = make_env(3);
    struct job job = {.env = env, .lanes = 3};
    for (int i = 0; i < 50; i++)
        env_parallel_for(env, 100, start_inner, &job);
    assert_int_equal(job.inner, 50 * 20 * (0 + 1 + 2 + 3 + 4));
    os_env_destroy(env);
}

static void two_environments_nest(void **state)
{
    (void)state;
    struct bg_env *one = make_env(1), *two = make_env(2);
    struct job job = {.env = two, .lanes = 2};
    env_parallel_for(one, 10, start_inner, &job);
    assert_int_equal(job.inner, 20);
    os_env_destroy(two);
    os_env_destroy(one);
}

static void jobs_with_pauses(void **state)
{
    (void)state;
    static unsigned char seen[64];
    struct bg_env *env = make_env(2);
    struct job job = {.env = env, .seen = seen, .lanes = 2};
    uint64_t allocations = bg_mem_count();
    for (int i = 0; i < 20000; i++) {
        memset(seen, 0, sizeof seen);
        size_t count = 2 + (size_t)i % 63;
        env_parallel_for(env, count, mark, &job);
        for (size_t k = 0; k < count; k++)
            assert_int_equal(seen[k], 1);
        if (i % 400 == 0)
            usleep((unsigned)i % 1000); // long enough now and then for lanes to sleep
    }
    assert_int_equal(bg_mem_count(), allocations);
    os_env_destroy(env);
}

static void check_mode(void *arg, size_t index, unsigned lane)
{
    struct job *job = arg;
    (void)index;
#if defined(__x86_64__)
    if (lane && (_mm_getcsr() & ~0x3fu) != 0x1F80)
        atomic_fetch_add(&job->wrong, 1);
#else
    (void)lane;
#endif
    usleep(50); // so that other lanes get some
}

// Threads inherit the creator's mode; ours must not.
static void float_mode(void **state)
{
    (void)state;
    int old = fegetround();
    fesetround(FE_UPWARD);
    struct bg_env *env = make_env(2);
    fesetround(old);
    struct job job = {.env = env, .lanes = 2};
    env_parallel_for(env, 200, check_mode, &job);
    assert_int_equal(job.wrong, 0);
    os_env_destroy(env);
}

static void refuses_too_many(void **state)
{
    (void)state;
    struct bg_error err = {0};
    struct bg_env *env = NULL;
    assert_int_equal(os_env_create(&(struct os_options){.threads = 5000}, &err, &env), BG_INVALID);
    assert_non_null(strstr(err.text, "5000"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_index_once),   cmocka_unit_test(one_lane_at_a_place),
        cmocka_unit_test(nested_runs_inline), cmocka_unit_test(two_environments_nest),
        cmocka_unit_test(jobs_with_pauses),   cmocka_unit_test(float_mode),
        cmocka_unit_test(refuses_too_many),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
