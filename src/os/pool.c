// parallel_for: lanes that take grains of one job from a shared counter. A training step issues thousands of
// jobs of 50-1000 us, so idle lanes spin for a short, adaptive time before they sleep, and never where there
// are more lanes than CPUs.
//
//   ticket = job number (high half) | grains left (low half)
//
// A lane takes a grain by a compare-and-swap that counts the low half down. The number in the high half makes a
// late lane's swap fail once the job it looked at is over; a swap that succeeds proves that the job cannot end
// before this lane has added its grains to `done`, so fn, arg and count hold still. Invariants: one caller at a
// time; no allocation after creation; a call from inside a task runs inline on the lane it is on.
#define _GNU_SOURCE // affinity
#include "os/live_int.h"

#include "base/assert.h"
#include "base/mem.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <uv.h>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

enum { LANES_MAX = 1024, CACHE_LINE = 64, SPIN_NS_MIN = 5 * 1000, SPIN_NS_MAX = 1000 * 1000 };

struct lane {
    struct os_pool *pool;
    unsigned index;
    int cpu; // -1: not pinned
    uv_thread_t thread;
};

struct os_pool {
    atomic_uint_fast64_t ticket;
    bg_task_fn fn;
    void *arg;
    uint32_t count;
    char apart[CACHE_LINE]; // what every lane writes, on lines of its own
    atomic_uint_fast64_t done;
    char apart2[CACHE_LINE];
    atomic_uint sleepers;
    atomic_bool caller_sleeps, stop, busy;
    bool spins, caller_pinned;
    unsigned lanes;
    cpu_set_t caller_cpus; // to be put back
    uv_mutex_t mutex;
    uv_cond_t work, finished;
    struct lane lane[];
};

// The pool and lane whose task this thread is running, for nested calls.
static _Thread_local const struct os_pool *current_pool;
static _Thread_local unsigned current_lane;

static void cpu_relax(void)
{
#if defined(__x86_64__)
    _mm_pause();
#endif
}

// NUMERICS 1: round to nearest, no flushing of denormals, in every thread that computes.
static void set_float_mode(void)
{
#if defined(__x86_64__)
    _mm_setcsr(0x1F80);
#endif
}

static void pin_thread(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)cpu, &set);
    pthread_setaffinity_np(pthread_self(), sizeof set, &set); // a refusal costs speed, not correctness
}

// Takes grains of the current job until none is left.
static void take_grains(struct os_pool *pool, unsigned lane)
{
    uint64_t finished = 0;
    uint64_t ticket = atomic_load(&pool->ticket);
    while ((uint32_t)ticket) {
        if (!atomic_compare_exchange_weak(&pool->ticket, &ticket, ticket - 1))
            continue;
        pool->fn(pool->arg, pool->count - (uint32_t)ticket, lane);
        finished++;
        ticket = atomic_load(&pool->ticket);
    }
    if (!finished)
        return;
    atomic_fetch_add(&pool->done, finished);
    // Either the caller sees the sum before it sleeps, or we see that it sleeps.
    if (lane && atomic_load(&pool->caller_sleeps)) {
        uv_mutex_lock(&pool->mutex);
        uv_cond_signal(&pool->finished);
        uv_mutex_unlock(&pool->mutex);
    }
}

static bool has_work(struct os_pool *pool)
{
    return (uint32_t)atomic_load(&pool->ticket) || atomic_load(&pool->stop);
}

static bool is_done(struct os_pool *pool)
{
    return atomic_load(&pool->done) == pool->count;
}

static bool spin_until(struct os_pool *pool, bool (*ready)(struct os_pool *), uint64_t limit_ns)
{
    uint64_t start = uv_hrtime();
    do {
        for (int i = 0; i < 32; i++) {
            if (ready(pool))
                return true;
            cpu_relax();
        }
    } while (uv_hrtime() - start < limit_ns);
    return false;
}

static void sleep_until_work(struct os_pool *pool)
{
    uv_mutex_lock(&pool->mutex);
    atomic_fetch_add(&pool->sleepers, 1);
    while (!has_work(pool))
        uv_cond_wait(&pool->work, &pool->mutex);
    atomic_fetch_sub(&pool->sleepers, 1);
    uv_mutex_unlock(&pool->mutex);
}

static void lane_main(void *arg)
{
    struct lane *lane = arg;
    struct os_pool *pool = lane->pool;
    if (lane->cpu >= 0)
        pin_thread(lane->cpu);
    set_float_mode();
    current_pool = pool;
    current_lane = lane->index;
    uint64_t spin_ns = SPIN_NS_MAX / 4;
    while (!atomic_load(&pool->stop)) {
        take_grains(pool, lane->index);
        uint64_t idle_since = uv_hrtime();
        if (!pool->spins || !spin_until(pool, has_work, spin_ns))
            sleep_until_work(pool);
        // Where spinning did pay, or would have, the next spin is longer; a vain one makes it shorter.
        bool paid = uv_hrtime() - idle_since < SPIN_NS_MAX;
        spin_ns = paid ? 2 * spin_ns : spin_ns / 2;
        spin_ns = spin_ns < SPIN_NS_MIN ? SPIN_NS_MIN : spin_ns > SPIN_NS_MAX ? SPIN_NS_MAX : spin_ns;
    }
}

static void wake_lanes(struct os_pool *pool)
{
    if (!atomic_load(&pool->sleepers))
        return;
    uv_mutex_lock(&pool->mutex);
    uv_cond_broadcast(&pool->work);
    uv_mutex_unlock(&pool->mutex);
}

static void wait_done(struct os_pool *pool)
{
    if (is_done(pool) || (pool->spins && spin_until(pool, is_done, SPIN_NS_MAX)))
        return;
    uv_mutex_lock(&pool->mutex);
    atomic_store(&pool->caller_sleeps, true);
    while (!is_done(pool))
        uv_cond_wait(&pool->finished, &pool->mutex);
    atomic_store(&pool->caller_sleeps, false);
    uv_mutex_unlock(&pool->mutex);
}

void os_pool_run(struct os_pool *pool, size_t count, bg_task_fn fn, void *arg)
{
    bool nested = current_pool == pool;
    if (nested || pool->lanes == 1 || count <= 1) {
        for (size_t i = 0; i < count; i++)
            fn(arg, i, nested ? current_lane : 0);
        return;
    }
    BG_ASSERT(count <= UINT32_MAX);
    BG_ASSERT(!atomic_exchange(&pool->busy, true)); // one caller at a time
    const struct os_pool *outer_pool = current_pool;
    unsigned outer_lane = current_lane;
    current_pool = pool;
    current_lane = 0;
    pool->fn = fn;
    pool->arg = arg;
    pool->count = (uint32_t)count;
    atomic_store(&pool->done, 0);
    uint64_t job = (atomic_load(&pool->ticket) >> 32) + 1;
    atomic_store(&pool->ticket, job << 32 | count);
    wake_lanes(pool);
    take_grains(pool, 0);
    wait_done(pool);
    current_pool = outer_pool;
    current_lane = outer_lane;
    atomic_store(&pool->busy, false);
}

// The CPUs of this process; fills cpus (up to `max`) and returns how many there are.
static unsigned allowed_cpus(cpu_set_t *set, int *cpus, unsigned max)
{
    if (pthread_getaffinity_np(pthread_self(), sizeof *set, set) != 0)
        CPU_ZERO(set); // more CPUs than cpu_set_t holds: run unpinned
    unsigned count = 0;
    for (int cpu = 0; cpu < CPU_SETSIZE && count < max; cpu++)
        if (CPU_ISSET((size_t)cpu, set))
            cpus[count++] = cpu;
    return count;
}

// Where the caller runs now, as an index into cpus.
static unsigned current_cpu(const int *cpus, unsigned count)
{
    int cpu = sched_getcpu();
    for (unsigned i = 0; i < count; i++)
        if (cpus[i] == cpu)
            return i;
    return 0;
}

static void stop_lanes(struct os_pool *pool, unsigned started)
{
    uv_mutex_lock(&pool->mutex);
    atomic_store(&pool->stop, true);
    uv_cond_broadcast(&pool->work);
    uv_mutex_unlock(&pool->mutex);
    for (unsigned i = 1; i < started; i++)
        uv_thread_join(&pool->lane[i].thread);
    uv_cond_destroy(&pool->finished);
    uv_cond_destroy(&pool->work);
    uv_mutex_destroy(&pool->mutex);
}

bg_status os_pool_create(const struct os_options *o, struct bg_error *err, unsigned *lanes, struct os_pool **out)
{
    cpu_set_t allowed;
    int cpus[LANES_MAX];
    unsigned cpu_count = allowed_cpus(&allowed, cpus, LANES_MAX);
    unsigned count = o->threads ? o->threads : cpu_count ? cpu_count : uv_available_parallelism();
    if (count > LANES_MAX)
        return bg_fail(err, BG_INVALID, "threads: %u is more than the %d that one process may have", count, LANES_MAX);
    struct os_pool *pool = bg_alloc(sizeof *pool + count * sizeof pool->lane[0]);
    pool->lanes = count;
    pool->caller_cpus = allowed;
    pool->spins = count <= cpu_count;
    // One lane alone is better placed by the kernel, unless told where: two such processes must not meet on one CPU.
    bool pin = o->pin && (count > 1 || o->first_cpu) && count <= cpu_count;
    unsigned first = !pin ? 0 : o->first_cpu ? (o->first_cpu - 1) % cpu_count : current_cpu(cpus, cpu_count);
    BG_ASSERT(uv_mutex_init(&pool->mutex) == 0 && uv_cond_init(&pool->work) == 0 && uv_cond_init(&pool->finished) == 0);
    for (unsigned i = 1; i < count; i++) {
        pool->lane[i] = (struct lane){.pool = pool, .index = i, .cpu = pin ? cpus[(first + i) % cpu_count] : -1};
        int code = uv_thread_create(&pool->lane[i].thread, lane_main, &pool->lane[i]);
        if (code < 0) {
            stop_lanes(pool, i);
            bg_free(pool);
            return bg_fail(err, BG_NO_MEMORY, "starting thread %u of %u: %s; ask for fewer threads", i + 1, count,
                           uv_strerror(code));
        }
    }
    if (pin && !o->keep_caller) {
        pin_thread(cpus[first]);
        pool->caller_pinned = true;
    }
    *lanes = count;
    *out = pool;
    return BG_OK;
}

void os_pool_destroy(struct os_pool *pool)
{
    stop_lanes(pool, pool->lanes);
    if (pool->caller_pinned)
        pthread_setaffinity_np(pthread_self(), sizeof pool->caller_cpus, &pool->caller_cpus);
    bg_free(pool);
}
