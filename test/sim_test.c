// The deterministic simulation: seeds by the thousand, each a job with faults, held to what one process computes of it.
// BRIGADE_SIM_SEED=n replays one seed and says on stderr who did what when; BRIGADE_SIM_SEEDS=n runs that many (20,000
// with BRIGADE_CHECK_FULL). The controls break something on purpose: the checkers have to notice.
// labels: sim
#include "sim/sim.h"

#include "base/env.h"
#include "os/live.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __SANITIZE_ADDRESS__
enum { SEEDS = 300, SEEDS_FULL = 2000 };
#else
enum { SEEDS = 3000, SEEDS_FULL = 20000 };
#endif

static unsigned isa(void)
{
    struct bg_env *env = NULL;
    struct bg_error err;
    if (os_env_create(&(struct os_options){.threads = 1, .keep_caller = true}, &err, &env))
        fail_msg("%s", err.text);
    unsigned bits = env->isa;
    os_env_destroy(env);
    return bits;
}

static uint64_t number(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text && text[0] ? strtoull(text, NULL, 10) : otherwise;
}

static void say(void *arg, const char *line)
{
    (void)arg;
    fprintf(stderr, "%s\n", line);
}

static struct sim_result run(struct sim *sim, uint64_t seed, enum sim_control control)
{
    struct sim_result result;
    struct sim_options options = {.seed = seed, .control = control, .say = getenv("BRIGADE_SIM_SEED") ? say : NULL};
    sim_run(sim, &options, &result);
    return result;
}

static void print_failure(uint64_t seed, const struct sim_result *result)
{
    fprintf(stderr, "SIMULATION FAILED: seed %" PRIu64 " (%s)\n%s\nreplay: BRIGADE_SIM_SEED=%" PRIu64 " sim_test\n",
            seed, result->scenario, result->text, seed);
}

static void seeds(void **state)
{
    (void)state;
    struct sim *sim = sim_create(isa());
    uint64_t count = number("BRIGADE_SIM_SEEDS", getenv("BRIGADE_CHECK_FULL") ? SEEDS_FULL : SEEDS);
    uint64_t first = number("BRIGADE_SIM_FIRST", 0), failed = 0;
    uint64_t turns = 0, frames = 0, kills = 0, freezes = 0, restarts = 0, frame_faults = 0, rollbacks = 0;
    for (uint64_t seed = first; seed < first + count && failed < 20; seed++) {
        struct sim_result result = run(sim, seed, SIM_SOUND);
        if (!result.passed) {
            failed++;
            print_failure(seed, &result);
        }
        turns += result.turns;
        frames += result.frames;
        kills += result.kills;
        freezes += result.freezes;
        restarts += result.restarts;
        frame_faults += result.frame_faults;
        rollbacks += result.rollbacks;
    }
    fprintf(stderr,
            "%" PRIu64 " seeds: %" PRIu64 " turns, %" PRIu64 " frames, %" PRIu64 " kills, %" PRIu64 " freezes, %" PRIu64
            " restarts of the controller, %" PRIu64 " broken frames, %" PRIu64 " rollbacks\n",
            count, turns, frames, kills, freezes, restarts, frame_faults, rollbacks);
    sim_destroy(sim);
    assert_int_equal(failed, 0);
}

// The same seed is the same run, whatever ran before it.
static void same_trace_twice(void **state)
{
    (void)state;
    struct sim *sim = sim_create(isa()), *other = sim_create(isa());
    for (uint64_t seed = 0; seed < 30; seed++) {
        struct sim_result a = run(sim, seed, SIM_SOUND), b = run(other, 29 - seed, SIM_SOUND);
        b = run(other, seed, SIM_SOUND);
        assert_true(a.trace == b.trace);
        assert_true(a.turns == b.turns && a.virtual_ns == b.virtual_ns);
    }
    sim_destroy(sim);
    sim_destroy(other);
}

static void strike(struct sim *sim, const struct sim_strike *strike, struct sim_result *result)
{
    struct sim_options options = {.seed = 1, .strike = strike};
    sim_run(sim, &options, result);
    if (!result->passed)
        fail_msg("SIMULATION FAILED: %s, %s at point %u, pause %u: %s", result->scenario,
                 strike->freeze ? "frozen" : "killed", strike->point, strike->pause, result->text);
}

// One death, or one process that is taken for dead, at every point that any process passes (every seventh here).
static void kill_matrix(void **state)
{
    (void)state;
    struct sim *sim = sim_create(isa());
    uint32_t every = getenv("BRIGADE_CHECK_FULL") ? 1 : 7;
    for (uint32_t variant = 0; variant < SIM_MATRIX_VARIANTS; variant++) {
        struct sim_result whole, result;
        strike(sim, &(struct sim_strike){.variant = variant}, &whole);
        assert_true(whole.points > 200);
        for (uint32_t point = 1 + variant; point <= whole.points; point += every)
            for (int freeze = 0; freeze < 2; freeze++)
                strike(sim, &(struct sim_strike){.variant = variant, .point = point, .freeze = freeze}, &result);
        fprintf(stderr, "%s: %" PRIu64 " points\n", whole.scenario, whole.points);
    }
    sim_destroy(sim);
}

// A death and, at every distance, all spot machines with what the survivors made meanwhile; others come in mid-step.
static void pause_matrix(void **state)
{
    (void)state;
    struct sim *sim = sim_create(isa());
    struct sim_result whole, result;
    for (uint32_t variant = SIM_MATRIX_RENTS; variant < SIM_MATRIX_VARIANTS; variant++) {
        strike(sim, &(struct sim_strike){.variant = variant}, &whole);
        uint32_t every = getenv("BRIGADE_CHECK_FULL") ? 1 : 5;
        for (uint32_t point = 1 + variant; point <= whole.points; point += every)
            for (uint32_t pause = 1 + point % 7; pause < 300; pause += pause / 4 + 5)
                strike(sim, &(struct sim_strike){.variant = variant, .point = point, .pause = pause}, &result);
    }
    sim_destroy(sim);
}

static void controls_fail(void **state)
{
    (void)state;
    static const struct {
        enum sim_control control;
        const char *notices; // what the checkers have to say
    } controls[] = {
        {SIM_STALE, "acted on a frame of a generation before"},
        {SIM_TWICE, "other bits than the reference"},
        {SIM_FORGETS, ""},
        {SIM_LEAK, "shared reservations"},
    };
    struct sim *sim = sim_create(isa());
    for (size_t i = 0; i < sizeof controls / sizeof *controls; i++) {
        bool noticed = false;
        for (uint64_t seed = 0; seed < 300 && !noticed; seed++) {
            struct sim_result result = run(sim, seed, controls[i].control);
            noticed = !result.passed && strstr(result.text, controls[i].notices);
        }
        if (!noticed)
            fail_msg("control %zu (\"%s\") went unnoticed", i, controls[i].notices);
    }
    sim_destroy(sim);
}

int main(void)
{
    const char *seed = getenv("BRIGADE_SIM_SEED");
    if (seed) {
        struct sim *sim = sim_create(isa());
        struct sim_result result =
            run(sim, strtoull(seed, NULL, 10), (enum sim_control)number("BRIGADE_SIM_CONTROL", SIM_SOUND));
        if (!result.passed)
            print_failure(strtoull(seed, NULL, 10), &result);
        else
            fprintf(stderr, "passed: %s; %" PRIu64 " turns, %.3f virtual s, trace %016" PRIx64 "\n", result.scenario,
                    result.turns, 1e-9 * (double)result.virtual_ns, result.trace);
        sim_destroy(sim);
        return !result.passed;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(seeds),        cmocka_unit_test(same_trace_twice), cmocka_unit_test(kill_matrix),
        cmocka_unit_test(pause_matrix), cmocka_unit_test(controls_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
