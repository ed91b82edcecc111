// How long the synchronous planner takes (processor time, one thread), against the number of units and of machines,
// equal and unequal: a table, and the exponent of growth between its first and last rows. --quick: the small half of
// it; --large: 96 units on 64 machines alone; --limit S fails where any row takes longer.
#include "base/mem.h"
#include "plan/split/sync.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now_s(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// A transformer on machines of eight a host; unequal: no two alike, with limited memory.
static struct plan_profile make(uint32_t units, uint32_t machines, bool unequal)
{
    struct plan_profile p = {.unit_count = units, .machine_count = machines};
    p.units = bg_alloc_array(units, sizeof *p.units);
    p.machines = bg_alloc_array(machines, sizeof *p.machines);
    for (uint32_t u = 0; u < units; u++) {
        const double weight = u + 1 == units ? 1.5 : u ? 1 : 0.1;
        p.units[u] = (struct plan_unit){.forward_s = 0.01 * weight,
                                        .input_s = 0.01 * weight,
                                        .weight_s = 0.01 * weight,
                                        .parameter_bytes = 28e6,
                                        .stash_bytes = 20e6,
                                        .cut_bytes = 2e6};
    }
    for (uint32_t i = 0; i < machines; i++) {
        p.machines[i] = (struct plan_machine){.speed = 1, .host = i / 8, .threads = 1};
        (void)snprintf(p.machines[i].name, sizeof p.machines[i].name, "m%u", i);
        if (unequal) {
            p.machines[i].speed = 0.5 + 1.5 * ((i * 37u) % 64) / 64.0;
            p.machines[i].memory_bytes = (3 + (double)((i * 23u) % 64) / 8) * 1e9 * units / 48;
        }
    }
    p.inner = (struct plan_link){2e-6, 1e10};
    p.outer = (struct plan_link){1e-4, 1.25e9};
    p.op_s = p.message_s = 1e-5;
    p.commit_s = 1e-3;
    p.step_byte_s = 2e-10;
    p.reduce_byte_s = 1e-10;
    return p;
}

static double measure(uint32_t units, uint32_t machines, bool unequal)
{
    struct plan_profile p = make(units, machines, unequal);
    const struct plan_sync_options o = {.micro_batches = 128, .group = 1, .recompute = PLAN_SYNC_AUTO};
    struct plan_sync sync;
    struct bg_error err;
    const double start = now_s();
    if (plan_sync_solve(&p, &o, &err, &sync)) {
        (void)fprintf(stderr, "bench-planner: %u units, %u machines: %s\n", units, machines, err.text);
        exit(1);
    }
    const double seconds = now_s() - start;
    (void)printf("%-8s %6u %9u %9.3f s   %2u stages %3u machines  step %8.4f s  %s\n", unequal ? "unequal" : "equal",
                 units, machines, seconds, sync.choices[0].stage_count, sync.choices[0].seat_count,
                 sync.choices[0].step_s, sync.exact ? "exact" : "-");
    (void)fflush(stdout);
    plan_sync_fini(&sync);
    plan_profile_fini(&p);
    return seconds;
}

int main(int argc, char **argv)
{
    static const uint32_t units[] = {12, 24, 48, 96, 192}, machines[] = {2, 4, 8, 16, 32, 64};
    bool quick = false, large = false;
    double limit = INFINITY, worst = 0;
    char *end = NULL;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--quick"))
            quick = true;
        else if (!strcmp(argv[i], "--large"))
            large = true;
        else if (!strcmp(argv[i], "--limit") && i + 1 < argc)
            limit = strtod(argv[++i], &end);
    }
    if (end && (*end || limit <= 0)) {
        (void)fprintf(stderr, "bench-planner: --limit takes seconds\n");
        return 64;
    }
    if (large)
        return measure(96, 64, true) > limit || measure(96, 64, false) > limit;
    for (uint32_t unequal = 0; unequal < 2; unequal++) {
        double by_units[5] = {0}, by_machines[6] = {0};
        const uint32_t rows = quick ? 2 : 5, columns = quick ? 4 : 6;
        for (uint32_t u = 0; u < rows; u++)
            for (uint32_t m = 0; m < columns; m++) {
                const double seconds = measure(units[u], machines[m], unequal);
                worst = fmax(worst, seconds);
                if (m + 1 == columns)
                    by_units[u] = seconds;
                if (u + 1 == rows)
                    by_machines[m] = seconds;
            }
        (void)printf("%-8s time grows as units^%.2f (at %u machines), machines^%.2f (at %u units)\n",
                     unequal ? "unequal" : "equal",
                     log(by_units[rows - 1] / by_units[0]) / log((double)units[rows - 1] / units[0]),
                     machines[columns - 1],
                     log(by_machines[columns - 1] / by_machines[0]) / log((double)machines[columns - 1] / machines[0]),
                     units[rows - 1]);
    }
    (void)printf("{\"bench\": \"planner\", \"worst_s\": %.4f}\n", worst);
    return worst > limit;
}
