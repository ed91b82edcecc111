// What messages cost: round trips and bursts between this thread and another over shared memory, with the sender's
// check computed and the receiver's compared as workers do; and what the controller's log costs.
#include "train/measure_int.h"

#include "base/mem.h"
#include "comm/shm/shm.h"

#include <string.h>

enum { TRIPS = 200, BURSTS = 9, BURST = 64, LARGE = 1 << 18, APPENDS = 40 };

struct talk {
    struct comm *comm;
    uint32_t link;
    uint8_t *memory; // LARGE bytes that the other side reads in place
};

static bg_status endpoint(struct bg_env *env, uint32_t self, struct bg_error *err, struct talk *t)
{
    void *memory = NULL;
    bg_status status = comm_shm_create(env, &(struct comm_shm_options){0}, err, &t->comm);
    if (status)
        return status;
    t->comm->self = self;
    status = t->comm->ops->reserve(t->comm, LARGE, err, &memory);
    t->memory = memory;
    if (!status)
        memset(memory, 1, LARGE);
    return status;
}

static void talk_end(struct talk *t)
{
    if (t->comm)
        t->comm->ops->destroy(t->comm);
}

static bg_status say(struct talk *t, const void *payload, size_t bytes, struct bg_error *err)
{
    const struct wire_frame frame = {.kind = WIRE_PART};
    bg_status status;
    while ((status = comm_send(t->comm, t->link, &frame, payload, bytes, err)) == BG_FULL)
        t->comm->ops->wait(t->comm, 1000000);
    return status;
}

static bg_status hear(struct talk *t, struct bg_error *err, struct comm_event *event)
{
    for (;;) {
        bg_status status = comm_next(t->comm, err, event);
        if (status || event->kind == COMM_FRAME || event->kind == COMM_UP)
            return status;
        if (event->kind == COMM_DOWN)
            return bg_fail(err, BG_IO, "measuring messages: the other side is gone: %s", event->why);
        t->comm->ops->wait(t->comm, 1000000000);
    }
}

// Takes a frame as a worker does.
static bg_status take(struct talk *t, struct bg_error *err)
{
    struct comm_event event;
    bg_status status = hear(t, err, &event);
    if (!status && event.frame.bytes && wire_check(event.payload, event.frame.bytes) != event.frame.check)
        status = bg_fail(err, BG_CORRUPT, "measuring messages: a frame was damaged on the way");
    comm_release(t->comm, &event);
    return status;
}

// The other side: answers every empty frame, until the link goes down.
struct echo {
    const char *address;
    struct bg_error err;
    bg_status status;
};
static void answer(void *arg, struct bg_env *own)
{
    struct echo *e = arg;
    struct talk t = {0};
    struct comm_event event;
    struct bg_error ends;
    e->status = endpoint(own, 2, &e->err, &t);
    if (!e->status)
        e->status = t.comm->ops->connect(t.comm, 1, e->address, &e->err, &t.link);
    while (!e->status && !hear(&t, &ends, &event)) {
        if (event.kind == COMM_FRAME)
            e->status = say(&t, NULL, 0, &e->err);
        comm_release(t.comm, &event);
    }
    talk_end(&t);
}

static double since(struct bg_env *env, uint64_t start)
{
    return 1e-9 * (double)(env_now_ns(env) - start);
}

static bg_status trips(struct bg_env *env, struct talk *t, struct bg_error *err, double *seconds)
{
    double times[TRIPS];
    bg_status status = BG_OK;
    for (int i = -TRIPS / 10; i < TRIPS && !status; i++) { // the first ones warm up
        const uint64_t start = env_now_ns(env);
        status = say(t, NULL, 0, err);
        if (!status)
            status = take(t, err);
        times[i < 0 ? 0 : i] = since(env, start);
    }
    if (!status)
        *seconds = measure_typical(times, TRIPS);
    return status;
}

// From one endpoint of this thread to another: what sender and receiver do themselves.
static bg_status bursts(struct bg_env *env, struct talk *from, struct talk *to, size_t bytes, struct bg_error *err,
                        double *seconds)
{
    double times[BURSTS];
    bg_status status = BG_OK;
    for (int i = -1; i < BURSTS && !status; i++) {
        const uint64_t start = env_now_ns(env);
        for (int k = 0; k < BURST && !status; k++)
            status = say(from, from->memory, bytes, err);
        for (int k = 0; k < BURST && !status; k++)
            status = take(to, err);
        times[i < 0 ? 0 : i] = since(env, start) / BURST / 2;
    }
    if (!status)
        *seconds = measure_typical(times, BURSTS);
    return status;
}

static bg_status connect_both(struct talk *from, struct talk *to, struct bg_error *err)
{
    struct comm_event event = {0};
    const char *address = to->comm->ops->address(to->comm);
    bg_status status = from->comm->ops->connect(from->comm, to->comm->self, address, err, &from->link);
    while (!status && event.kind != COMM_UP) { // one thread: each in turn
        from->comm->ops->wait(from->comm, 0);
        status = comm_next(to->comm, err, &event);
    }
    to->link = event.link;
    for (event.kind = COMM_NOTHING; !status && event.kind != COMM_UP;) {
        to->comm->ops->wait(to->comm, 0);
        status = comm_next(from->comm, err, &event);
    }
    return status;
}

static bg_status measure_work(struct bg_env *env, struct bg_error *err, struct plan_profile *p)
{
    struct talk from = {0}, to = {0};
    double small = 0, large = 0;
    bg_status status = endpoint(env, 1, err, &from);
    if (!status)
        status = endpoint(env, 2, err, &to);
    if (!status)
        status = connect_both(&from, &to, err);
    if (!status)
        status = bursts(env, &from, &to, 64, err, &small);
    if (!status)
        status = bursts(env, &from, &to, LARGE, err, &large);
    if (!status) {
        p->message_s = small;
        p->message_byte_s = large > small ? (large - small) / (LARGE - 64) : 0;
    }
    talk_end(&from);
    talk_end(&to);
    return status;
}

static bg_status measure_latency(struct bg_env *env, struct bg_error *err, struct plan_profile *p)
{
    struct talk t = {0};
    struct echo echo = {0};
    struct bg_thread *thread = NULL;
    struct comm_event up;
    double seconds = 0;
    bg_status status = endpoint(env, 1, err, &t);
    if (!status) {
        echo.address = t.comm->ops->address(t.comm);
        status = env->ops->thread_start(env, answer, &echo, err, &thread);
    }
    if (!status)
        status = hear(&t, err, &up);
    t.link = up.link;
    if (!status)
        status = trips(env, &t, err, &seconds);
    talk_end(&t); // the other side sees it go
    if (thread)
        env->ops->thread_join(env, thread);
    if (!status && echo.status) {
        *err = echo.err;
        status = echo.status;
    }
    if (!status) {
        p->inner.latency_s = seconds / 2 > 2 * p->message_s ? seconds / 2 - 2 * p->message_s : 0;
        p->outer = p->inner;
    }
    return status;
}

bg_status measure_messages(struct bg_env *env, struct bg_error *err, struct plan_profile *profile)
{
    bg_status status = measure_work(env, err, profile);
    return status || !env->ops->thread_start ? status : measure_latency(env, err, profile);
}

bg_status measure_commit(struct bg_env *env, struct store *log, struct bg_error *err, struct plan_profile *profile)
{
    double times[APPENDS] = {0};
    bg_status status = BG_OK;
    for (int i = 0; i < APPENDS && !status && log; i++) {
        const struct store_record record = {.kind = STORE_COMMIT, .a = (uint64_t)i, .x = 1, .y = 1, .z = 1};
        const uint64_t start = env_now_ns(env);
        status = log->ops->append(log, &record, err);
        times[i] = since(env, start);
    }
    if (!status)
        profile->commit_s = measure_typical(times, APPENDS) + 2 * (profile->inner.latency_s + 2 * profile->message_s);
    return status;
}
