// The live loop over an endpoint, a store, a clock and processes that are arrays in this file. One worker does the
// whole job and follows the protocol in a few lines; what is tested here is the loop: links, names, losses, signals,
// the end.
#include "base/mem.h"
#include "base/str.h"
#include "ctl/run.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

enum { STEPS = 4, LEAVES = 2, EVENTS = 256 };

struct bench {
    struct bg_env env;
    struct comm comm;
    struct store store;
    struct comm_event events[EVENTS]; // payloads owned here
    size_t head, count;
    uint64_t now;
    int signal;
    // The worker.
    uint32_t link_next, link, member;
    uint64_t token, version;
    uint32_t generation;
    bool here, running, full; // full: its queue takes nothing
    uint64_t die_at;          // step at which its link goes down, once
    uint64_t signal_at;       // step at which a signal comes, and the events stop for a turn
    bool pause;
    uint64_t spawns, ended[8];
    size_t ended_count;
    bool junk; // the next process says junk instead of HELLO
    bool dumb; // the next process dies before it says anything
    // The log.
    struct store_record log[256];
    char *texts[256];
    size_t log_count;
    struct bg_str told;
    struct ctl_view view;
    enum ctl_end end;
};

static void event_add(struct bench *b, enum comm_event_kind kind, enum wire_kind frame, const void *payload,
                      size_t size)
{
    assert_true(b->count < EVENTS);
    struct comm_event *e = &b->events[(b->head + b->count++) % EVENTS];
    uint8_t *copy = bg_alloc(size + 1);
    if (size)
        memcpy(copy, payload, size);
    *e = (struct comm_event){.kind = kind, .link = b->link, .payload = copy};
    e->frame = (struct wire_frame){.kind = (uint16_t)frame, .generation = b->generation, .job = 7, .step = b->version};
    e->frame.bytes = size;
    e->frame.check = wire_check(copy, size);
    snprintf(e->why, sizeof e->why, "process 5 ended");
}

// ---- The worker ----
static void worker_work(struct bench *b)
{
    if (b->version == b->die_at) {
        b->die_at = UINT64_MAX;
        b->here = b->running = false;
        event_add(b, COMM_DOWN, 0, NULL, 0);
        return;
    }
    if (b->version >= STEPS)
        return;
    if (b->signal_at && b->version == b->signal_at) {
        b->signal = 15;
        b->pause = true;
    }
    uint8_t payload[128];
    event_add(b, COMM_FRAME, WIRE_LOSS, payload,
              message_loss_encode(0, LEAVES, (const double[]){1, 2}, payload, sizeof payload));
    event_add(b, COMM_FRAME, WIRE_VOTE, payload,
              message_vote_encode(1, (const uint8_t[]){1}, (const double[]){4}, 1, payload, sizeof payload));
}

static void worker_report(struct bench *b)
{
    const uint8_t have = b->running;
    uint8_t payload[256];
    struct message_report m = {.version = b->version, .unit_count = 1, .units = &have, .roots = (const uint8_t[]){0}};
    event_add(b, COMM_FRAME, WIRE_REPORT, payload, message_report_encode(&m, payload, sizeof payload));
}

static void worker_task(struct bench *b, const void *payload, size_t size)
{
    struct message_task task;
    assert_int_equal(message_task_decode(payload, size, NULL, &task), BG_OK);
    struct message_task_done done = {.id = task.id, .checkpointed = task.checkpoint, .hashed = task.hash};
    snprintf(done.directory, sizeof done.directory, "step-%llu", (unsigned long long)b->version);
    message_fini(task.memory);
    uint8_t out[MESSAGE_SMALL];
    event_add(b, COMM_FRAME, WIRE_TASK_DONE, out, message_task_done_encode(&done, out, sizeof out));
}

static bg_status comm_send_here(struct comm *comm, uint32_t link, const struct wire_frame *frame, const void *payload,
                                size_t size, struct bg_error *err)
{
    struct bench *b = comm->env ? (struct bench *)comm->env : NULL;
    if (b->full)
        return bg_fail(err, BG_FULL, "the queue is full");
    if (!b->here || link != b->link)
        return BG_OK;
    struct message_generation m;
    switch (frame->kind) {
    case WIRE_WELCOME:
        b->version = 0;
        break;
    case WIRE_PREPARE:
        b->generation = frame->generation;
        worker_report(b);
        break;
    case WIRE_GENERATION:
        assert_int_equal(message_generation_decode(payload, size, NULL, &m), BG_OK);
        assert_int_equal(m.member_count, 1);
        b->version = m.step;
        message_fini(m.memory);
        b->running = true;
        worker_work(b);
        break;
    case WIRE_COMMIT:
        b->version++;
        worker_work(b);
        break;
    case WIRE_TASK:
        worker_task(b, payload, size);
        break;
    case WIRE_LEAVE:
        b->here = false;
        event_add(b, COMM_DOWN, 0, NULL, 0);
        break;
    default:
        fail();
    }
    return BG_OK;
}

// ---- The endpoint ----
static void comm_name_here(struct comm *comm, uint32_t link, uint32_t peer)
{
    struct bench *b = (struct bench *)comm->env;
    assert_int_equal(link, b->link);
    b->member = peer;
}

static void comm_close_here(struct comm *comm, uint32_t link)
{
    struct bench *b = (struct bench *)comm->env;
    bg_str_addf(&b->told, "close %u\n", link);
    if (link == b->link)
        b->here = b->running = b->full = false;
}

static bg_status comm_next_here(struct comm *comm, struct bg_error *err, struct comm_event *event)
{
    struct bench *b = (struct bench *)comm->env;
    (void)err;
    *event = (struct comm_event){0};
    if (b->count == 0 || b->pause) {
        b->pause = false;
        return BG_OK;
    }
    *event = b->events[b->head];
    b->head = (b->head + 1) % EVENTS;
    b->count--;
    if (event->kind != COMM_FRAME)
        bg_free((void *)event->payload);
    return BG_OK;
}

static void comm_release_here(struct comm *comm, struct comm_event *event)
{
    (void)comm;
    bg_free((void *)event->payload);
}

static void comm_wait_here(struct comm *comm, uint64_t timeout_ns)
{
    struct bench *b = (struct bench *)comm->env;
    b->now += timeout_ns;
    if (b->now > 60000000000)
        fail_msg("no end in a minute:\n%s", bg_str_text(&b->told));
}

static const struct comm_ops comm_here = {.name = comm_name_here,
                                          .close = comm_close_here,
                                          .send = comm_send_here,
                                          .next = comm_next_here,
                                          .release = comm_release_here,
                                          .wait = comm_wait_here};

// ---- Clock, log, processes ----
static uint64_t now_here(struct bg_env *env)
{
    return ((struct bench *)env)->now += 1000;
}

static int signal_here(struct bg_env *env)
{
    return ((struct bench *)env)->signal;
}

static void point_here(struct bg_env *env, const char *name)
{
    bg_str_addf(&((struct bench *)env)->told, "point %s\n", name);
}

static const struct bg_env_ops env_here = {.now_ns = now_here, .stop_signal = signal_here, .point = point_here};

static struct bench *bench_of(struct store *store)
{
    return (struct bench *)((char *)store - offsetof(struct bench, store));
}

static bg_status append_here(struct store *store, const struct store_record *r, struct bg_error *err)
{
    struct bench *b = bench_of(store);
    (void)err;
    assert_true(b->log_count < 256);
    b->texts[b->log_count] = r->text ? bg_strdup(r->text) : NULL;
    b->log[b->log_count] = *r;
    b->log[b->log_count].text = b->texts[b->log_count];
    b->log_count++;
    return BG_OK;
}

static bg_status replay_here(struct store *store,
                             bg_status (*fn)(void *, const struct store_record *, struct bg_error *), void *arg,
                             struct bg_error *err)
{
    struct bench *b = bench_of(store);
    bg_status status = BG_OK;
    for (size_t i = 0, count = b->log_count; i < count && !status; i++)
        status = fn(arg, &b->log[i], err);
    return status;
}

static const struct store_ops store_here = {.append = append_here, .replay = replay_here};

static bg_status spawn_here(void *arg, uint64_t token, enum message_role role, struct bg_error *err)
{
    struct bench *b = arg;
    (void)role;
    (void)err;
    b->spawns++;
    if (b->dumb) {
        b->dumb = false;
        b->ended[b->ended_count++] = token;
        return BG_OK;
    }
    b->link = ++b->link_next;
    b->here = true;
    b->generation = 0;
    event_add(b, COMM_UP, 0, NULL, 0);
    struct message_hello hello = {.version = MESSAGE_VERSION, .token = token, .process = 5, .address = "@w"};
    uint8_t payload[MESSAGE_SMALL];
    size_t size = message_hello_encode(&hello, payload, sizeof payload);
    event_add(b, COMM_FRAME, b->junk ? WIRE_VOTE : WIRE_HELLO, payload, size);
    if (b->junk)
        b->ended[b->ended_count++] = token;
    b->junk = false;
    return BG_OK;
}

static void poll_here(void *arg, void (*ended)(void *to, uint64_t token, const char *why), void *to)
{
    struct bench *b = arg;
    while (b->ended_count > 0)
        ended(to, b->ended[--b->ended_count], "exit code 1");
}

static bool lives_here(void *arg, uint64_t process, uint64_t start)
{
    (void)arg;
    (void)start;
    assert_int_equal(process, 5);
    return false;
}

static void event_here(void *arg, const char *event, const char *fields)
{
    bg_str_addf(&((struct bench *)arg)->told, "event %s %s\n", event, fields);
}

static void ended_here(void *arg, enum ctl_end end, const struct ctl_view *view)
{
    struct bench *b = arg;
    b->end = end;
    b->view = *view;
}

static struct bench *bench_create(void)
{
    struct bench *b = bg_alloc(sizeof *b);
    b->env = (struct bg_env){.ops = &env_here};
    b->comm = (struct comm){.ops = &comm_here, .env = &b->env, .self = COMM_UNKNOWN};
    b->store = (struct store){&store_here};
    b->die_at = UINT64_MAX;
    return b;
}

static void bench_destroy(struct bench *b)
{
    for (; b->count > 0; b->count--, b->head = (b->head + 1) % EVENTS)
        bg_free((void *)b->events[b->head].payload);
    for (size_t i = 0; i < b->log_count; i++)
        bg_free(b->texts[i]);
    bg_str_fini(&b->told);
    bg_free(b);
}

static bg_status run_here(struct bench *b, const struct ctl_checkpoint *newest, struct bg_error *err)
{
    static const char *const names[] = {"all"};
    static const uint32_t replicas[] = {1};
    const struct ctl_options job = {.steps = STEPS,
                                    .checkpoint_every = 2,
                                    .job = 7,
                                    .micro_batches = LEAVES,
                                    .targets = 3,
                                    .param_count = 1,
                                    .param_names = names,
                                    .units = 1,
                                    .costs = (const double[]){1},
                                    .state_bytes = (const uint64_t[]){8},
                                    .replicas = replicas,
                                    .stages = 1,
                                    .schedule = PLAN_1F1B,
                                    .chunks = 1,
                                    .group = 1,
                                    .workers = 1,
                                    .respawn = true,
                                    .join_ns = 1000000000,
                                    .patience_ns = 2000000000};
    const struct ctl_processes processes = {.arg = b, .spawn = spawn_here, .poll = poll_here, .lives = lives_here};
    const struct ctl_run_options options = {.job = &job,
                                            .comm = &b->comm,
                                            .store = &b->store,
                                            .processes = &processes,
                                            .newest = newest,
                                            .arg = b,
                                            .event = event_here,
                                            .ended = ended_here};
    return ctl_run(&b->env, &options, err);
}

static void finishes(void **state)
{
    (void)state;
    struct bench *b = bench_create();
    struct bg_error err = {0};
    assert_int_equal(run_here(b, NULL, &err), BG_OK);
    assert_true(b->end == CTL_FINISHED && b->view.committed == STEPS && b->view.hashed);
    assert_int_equal(b->comm.self, COMM_CONTROLLER);
    assert_int_equal(b->member, 1);
    assert_non_null(strstr(bg_str_text(&b->told), "point before-log\npoint after-log\npoint after-commit\n"));
    assert_null(strstr(bg_str_text(&b->told), "close")); // it left by itself
    bench_destroy(b);
}

static void worker_dies(void **state)
{
    (void)state;
    struct bench *b = bench_create();
    struct bg_error err = {0};
    b->die_at = 3;
    assert_int_equal(run_here(b, NULL, &err), BG_OK);
    assert_true(b->view.deaths == 1 && b->view.rollbacks == 1 && b->view.steps_redone == 1);
    assert_int_equal(b->spawns, 2);
    bench_destroy(b);
}

static void bad_beginnings(void **state)
{
    (void)state;
    struct bench *b = bench_create();
    struct bg_error err = {0};
    b->junk = true; // the first process says something else than HELLO
    assert_int_equal(run_here(b, NULL, &err), BG_OK);
    assert_non_null(strstr(bg_str_text(&b->told), "close 1\n"));
    assert_int_equal(b->spawns, 2);
    bench_destroy(b);

    b = bench_create();
    b->dumb = true;
    assert_int_equal(run_here(b, NULL, &err), BG_OK);
    assert_int_equal(b->spawns, 2);
    assert_int_equal(b->view.deaths, 0);
    bench_destroy(b);
}

static void stopped(void **state)
{
    (void)state;
    struct bench *b = bench_create();
    struct bg_error err = {0};
    b->signal = 15; // before anybody came: nothing to save
    assert_int_equal(run_here(b, NULL, &err), BG_STOPPED);
    assert_non_null(strstr(err.text, "resume goes on from the beginning"));
    assert_true(b->end == CTL_STOPPED && b->view.committed == 0);
    bench_destroy(b);

    b = bench_create();
    b->signal_at = 1; // while step 1 is open: it is finished
    assert_int_equal(run_here(b, NULL, &err), BG_STOPPED);
    assert_non_null(strstr(err.text, "after step 2 of 4; resume goes on from step-2"));
    bench_destroy(b);
}

// The log of a controller whose processes are all gone: nobody is waited for.
static void restarted(void **state)
{
    (void)state;
    struct bench *b = bench_create();
    struct bg_error err = {0};
    const struct store_record before[] = {
        {.kind = STORE_JOB, .text = "0000000000000000000000000000000000000000000000000000000000000000"},
        {.kind = STORE_MEMBER, .a = 1, .b = 5, .text = "@w"},
        {.kind = STORE_GENERATION, .a = 1},
        {.kind = STORE_COMMIT, .a = 0, .x = 1, .y = 2, .z = 1},
        {.kind = STORE_COMMIT, .a = 1, .x = 1, .y = 2, .z = 1},
        {.kind = STORE_COMMIT, .a = 2, .x = 1, .y = 2, .z = 1},
    };
    for (size_t i = 0; i < sizeof before / sizeof *before; i++)
        assert_int_equal(append_here(&b->store, &before[i], &err), BG_OK);
    const double losses[] = {1, 1};
    const struct ctl_checkpoint newest = {.step = 2, .losses = losses, .directory = "step-2"};
    assert_int_equal(run_here(b, &newest, &err), BG_OK);
    assert_true(b->view.deaths == 1 && b->view.rollbacks == 1 && b->view.steps_redone == 1);
    assert_int_equal(b->member, 2);
    assert_true(b->now < 3000000000); // nobody waited for member 1
    bench_destroy(b);
}

static void worker_does_not_read(void **state)
{
    (void)state;
    struct bench *b = bench_create();
    struct bg_error err = {0};
    b->full = true; // until its link is closed
    assert_int_equal(run_here(b, NULL, &err), BG_OK);
    assert_non_null(strstr(bg_str_text(&b->told), "it does not take what is sent to it"));
    assert_int_equal(b->spawns, 2);
    bench_destroy(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finishes), cmocka_unit_test(worker_dies), cmocka_unit_test(bad_beginnings),
        cmocka_unit_test(stopped),  cmocka_unit_test(restarted),   cmocka_unit_test(worker_does_not_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
