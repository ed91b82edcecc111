// The shared-memory transport between two processes: round trip of an empty frame, and the rate of payloads read in
// place and copied, each with the sender's check computed and the receiver's compared as training does. One JSON line.
#include "base/mem.h"
#include "comm/shm/shm.h"
#include "os/host.h"
#include "os/live.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { TRIPS = 4000, LARGEST = 1 << 20 };

static struct comm *endpoint(const char *address)
{
    struct bg_env *env = NULL;
    struct comm *comm = NULL;
    struct bg_error err;
    const struct comm_shm_options options = {.address = address, .beat_ms = 100, .silence_ms = 5000};
    if (os_env_create(&(struct os_options){.threads = 1, .keep_caller = true}, &err, &env) ||
        comm_shm_create(env, &options, &err, &comm)) {
        fprintf(stderr, "bench-comm: %s\n", err.text);
        exit(1);
    }
    return comm;
}

static struct comm_event event_of(struct comm *comm)
{
    struct bg_error err;
    struct comm_event event;
    for (;;) {
        if (comm_next(comm, &err, &event) || event.kind == COMM_DOWN)
            exit(event.kind == COMM_DOWN ? 0 : 1);
        if (event.kind != COMM_NOTHING)
            return event;
        comm->ops->wait(comm, 1000000000);
    }
}

static void send_to(struct comm *comm, uint32_t link, uint64_t step, const void *payload, size_t bytes)
{
    struct bg_error err;
    const struct wire_frame frame = {.kind = WIRE_PART, .step = step};
    while (comm_send(comm, link, &frame, payload, bytes, &err) == BG_FULL)
        comm->ops->wait(comm, 1000000);
}

// Answers every empty frame.
static void serve(const char *address)
{
    struct comm *comm = endpoint(NULL);
    struct bg_error err;
    uint32_t link = 0;
    while (comm->ops->connect(comm, 0, address, &err, &link))
        usleep(1000);
    for (;;) {
        struct comm_event event = event_of(comm);
        if (event.kind == COMM_FRAME && event.frame.bytes == 0)
            send_to(comm, link, event.frame.step, NULL, 0);
        else if (event.kind == COMM_FRAME && wire_check(event.payload, event.frame.bytes) != event.frame.check)
            exit(2);
        comm_release(comm, &event);
    }
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void round_trips(struct comm *comm, uint32_t link, int trips, double *median_us, double *p99_us)
{
    double *times = bg_alloc_array((size_t)trips, sizeof *times);
    for (int i = -trips / 10; i < trips; i++) { // the first tenth warms up
        uint64_t start = env_now_ns(comm->env);
        send_to(comm, link, 0, NULL, 0);
        struct comm_event event = event_of(comm);
        comm_release(comm, &event);
        times[i < 0 ? 0 : i] = (double)(env_now_ns(comm->env) - start) * 1e-3;
    }
    qsort(times, (size_t)trips, sizeof *times, by_value);
    *median_us = times[trips / 2];
    *p99_us = times[trips * 99 / 100];
    bg_free(times);
}

// GB/s of `total` bytes in frames of `bytes`, the best of three.
static double rate(struct comm *comm, uint32_t link, const uint8_t *memory, size_t bytes, size_t total)
{
    double best = 0;
    for (int run = 0; run < 3; run++) {
        uint64_t start = env_now_ns(comm->env);
        for (size_t sent = 0; sent < total; sent += bytes)
            send_to(comm, link, 0, memory + sent % LARGEST, bytes);
        send_to(comm, link, 1, NULL, 0);
        struct comm_event event = event_of(comm);
        comm_release(comm, &event);
        double seconds = (double)(env_now_ns(comm->env) - start) * 1e-9;
        best = (double)total / seconds * 1e-9 > best ? (double)total / seconds * 1e-9 : best;
    }
    return best;
}

int main(int argc, char **argv)
{
    bool quick = argc > 1 && !strcmp(argv[1], "--quick");
    char *address = bg_format("brigade-bench-%d", (int)getpid());
    pid_t child = fork();
    if (child == 0)
        serve(address);
    struct comm *comm = endpoint(address);
    struct comm_event up = event_of(comm);
    struct bg_error err;
    void *arena = NULL;
    if (comm->ops->reserve(comm, LARGEST, &err, &arena)) {
        fprintf(stderr, "bench-comm: %s\n", err.text);
        return 1;
    }
    uint8_t *heap = bg_alloc(LARGEST);
    memset(arena, 1, LARGEST);
    memset(heap, 1, LARGEST);
    size_t total = (size_t)(quick ? 16 : 128) << 20;
    double median_us = 0, p99_us = 0, rates[4];
    round_trips(comm, up.link, quick ? TRIPS / 8 : TRIPS, &median_us, &p99_us);
    for (int i = 0; i < 4; i++)
        rates[i] = rate(comm, up.link, i < 2 ? arena : heap, i % 2 ? LARGEST : 65536, total);
    char cpu[128];
    os_cpu_model(cpu, sizeof cpu);
    printf("{\"bench\": \"comm\", \"transport\": \"shm\", \"cpu\": \"%s\", \"cpus\": %u, \"round_trip_us\": %.1f, "
           "\"round_trip_p99_us\": %.1f, \"in_place_64k_gb_s\": %.2f, \"in_place_1m_gb_s\": %.2f, "
           "\"copied_64k_gb_s\": %.2f, \"copied_1m_gb_s\": %.2f}\n",
           cpu, os_cpu_count(), median_us, p99_us, rates[0], rates[1], rates[2], rates[3]);
    bg_free(heap);
    bg_free(address);
    struct bg_env *env = comm->env;
    comm->ops->destroy(comm);
    os_env_destroy(env);
    waitpid(child, NULL, 0);
    return 0;
}
