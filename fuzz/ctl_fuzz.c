// A controller among members that may say anything: HELLOs, control frames with payloads that decode, losses and deaths
// in any order. It may refuse, drop members or fail the job with a text; it may not break, and it goes on appending to
// its log in order.
#include "base/assert.h"
#include "base/mem.h"
#include "ctl/ctl.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { UNITS = 3, LEAVES = 4, MEMBERS = 8 };

struct input {
    const uint8_t *at;
    size_t left;
};

static uint8_t byte(struct input *in)
{
    if (in->left == 0)
        return 0;
    in->left--;
    return *in->at++;
}

struct world {
    struct ctl *ctl;
    uint64_t committed;
    uint32_t generation;
    uint64_t step;            // of the last frame sent
    struct message_task task; // the last one
};

static void host_send(void *arg, uint32_t member, const struct wire_frame *frame, const void *payload, size_t size)
{
    struct world *w = arg;
    (void)member;
    BG_ASSERT(size == frame->bytes && frame->generation >= w->generation);
    BG_ASSERT(size == 0 || payload);
    w->generation = frame->generation;
    w->step = frame->step + (frame->kind == WIRE_COMMIT);
    if (frame->kind == WIRE_TASK) {
        BG_ASSERT(message_task_decode(payload, size, NULL, &w->task) == BG_OK);
        message_fini(w->task.memory);
    }
}

static void host_drop(void *arg, uint32_t member)
{
    (void)arg;
    BG_ASSERT(member != 0);
}

static bg_status host_append(void *arg, const struct store_record *r, struct bg_error *err)
{
    struct world *w = arg;
    (void)err;
    if (r->kind == STORE_COMMIT)
        BG_ASSERT(r->a == w->committed++);
    if (r->kind == STORE_ROLLBACK)
        w->committed = r->a;
    return BG_OK;
}

static bg_status host_spawn(void *arg, uint64_t token, enum message_role role, struct bg_error *err)
{
    (void)arg;
    (void)token;
    (void)role;
    (void)err;
    return BG_OK;
}

static size_t make_report(struct input *in, const struct world *w, uint8_t *out, size_t capacity)
{
    uint8_t units[UNITS], roots[UNITS], items[4 * LEAVES], known[LEAVES];
    double losses[LEAVES];
    const uint8_t bits = byte(in), shape = byte(in);
    for (uint32_t u = 0; u < UNITS; u++) {
        units[u] = bits >> u & 1;
        roots[u] = bits >> (UNITS + u) & 1;
    }
    for (uint32_t i = 0; i < LEAVES; i++) {
        known[i] = shape >> (4 + i) & 1;
        losses[i] = 1;
    }
    struct message_report m = {.version = w->step - (bits >> 6 & 1), .unit_count = UNITS, .units = units};
    m.roots = roots;
    m.complete = bits & 128;
    m.stage_count = shape & 3;
    m.item_count = LEAVES;
    for (size_t i = 0; i < sizeof items; i++)
        items[i] = byte(in) & 127;
    m.items = items;
    m.loss_count = LEAVES;
    m.loss_known = known;
    m.losses = losses;
    struct plan_stage stages[3];
    static const double costs[UNITS] = {1, 2, 1};
    if (m.stage_count && plan_cut(costs, UNITS, m.stage_count, NULL, stages) == BG_OK) { // the cut that it will meet
        struct plan_item each[LEAVES];
        for (uint32_t i = 0; i < LEAVES; i++)
            each[i] = (struct plan_item){i, i + 1};
        const struct plan plan = {.units = UNITS,
                                  .micro_batches = LEAVES,
                                  .stages = stages,
                                  .stage_count = m.stage_count,
                                  .items = each,
                                  .item_count = LEAVES};
        m.plan = plan_cut_hash(&plan);
    }
    return message_report_encode(&m, out, capacity);
}

static size_t make_vote(struct input *in, uint8_t *out, size_t capacity)
{
    const uint8_t bits = byte(in);
    const uint8_t held[UNITS] = {bits & 1, bits >> 1 & 1, bits >> 2 & 1};
    const double squares[UNITS] = {1, 2, bits & 128 ? 4 : 3};
    return message_vote_encode(UNITS, held, squares, 1, out, capacity);
}

static size_t make_payload(struct input *in, const struct world *w, uint16_t kind, uint8_t *out, size_t capacity)
{
    const double losses[LEAVES] = {1, 1, 1, 1};
    struct message_trouble trouble = {.kind = byte(in) & 3, .peer = byte(in), .status = byte(in), .text = "so"};
    struct message_task_done done = {.id = byte(in), .status = byte(in) == 255, .directory = "d"};
    switch (kind) {
    case WIRE_REPORT:
        return make_report(in, w, out, capacity);
    case WIRE_LOSS:
        return message_loss_encode(byte(in) & 7, byte(in) % 5, losses, out, capacity);
    case WIRE_VOTE:
        return make_vote(in, out, capacity);
    case WIRE_TROUBLE:
        return message_trouble_encode(&trouble, out, capacity);
    case WIRE_TASK_DONE:
        done.evaluated = byte(in) & 1;
        done.checkpointed = byte(in) & 1;
        done.hashed = byte(in) & 1;
        done.evaluation.step = w->step;
        return message_task_done_encode(&done, out, capacity);
    default: // junk
        for (size_t i = 0; i < 8; i++)
            out[i] = byte(in);
        return 8;
    }
}

static void say(struct input *in, struct world *w, uint64_t now)
{
    static const uint16_t kinds[8] = {WIRE_REPORT,  WIRE_REPORT,    WIRE_LOSS, WIRE_VOTE,
                                      WIRE_TROUBLE, WIRE_TASK_DONE, WIRE_ROOT, WIRE_HELLO};
    uint8_t payload[2048];
    const uint8_t what = byte(in);
    struct wire_frame frame = {.kind = kinds[what & 7], .job = 7, .step = w->step, .generation = w->generation};
    frame.bytes = make_payload(in, w, what & 8 ? 0 : frame.kind, payload, sizeof payload);
    frame.check = wire_check(payload, frame.bytes);
    ctl_frame(w->ctl, now, 1 + byte(in) % MEMBERS, &frame, payload);
}

static void frame_say(struct world *w, uint64_t now, uint32_t member, uint16_t kind, const uint8_t *payload,
                      size_t size)
{
    struct wire_frame frame = {.kind = kind, .job = 7, .step = w->step, .generation = w->generation, .bytes = size};
    frame.check = wire_check(payload, size);
    ctl_frame(w->ctl, now, member, &frame, payload);
}

// A member does all that could be asked of it, as one that holds everything.
static void do_duty(struct world *w, uint64_t now, uint32_t member)
{
    static const uint8_t all[UNITS] = {1, 1, 1}, none[UNITS];
    static const double losses[LEAVES] = {1, 1, 1, 1}, squares[UNITS] = {1, 2, 3};
    uint8_t payload[2048];
    const struct message_report report = {.version = w->step, .unit_count = UNITS, .units = all, .roots = none};
    const struct message_task *task = &w->task;
    struct message_task_done done = {.id = task->id, .evaluated = task->evaluate, .checkpointed = task->checkpoint};
    done.hashed = task->hash;
    done.evaluation.step = w->step;
    frame_say(w, now, member, WIRE_REPORT, payload, message_report_encode(&report, payload, sizeof payload));
    frame_say(w, now, member, WIRE_TASK_DONE, payload, message_task_done_encode(&done, payload, sizeof payload));
    frame_say(w, now, member, WIRE_LOSS, payload, message_loss_encode(0, LEAVES, losses, payload, sizeof payload));
    frame_say(w, now, member, WIRE_VOTE, payload, message_vote_encode(UNITS, all, squares, 1, payload, sizeof payload));
}

static struct ctl *start(struct input *in, struct world *w)
{
    static const double costs[UNITS] = {1, 2, 1};
    static const uint64_t bytes[UNITS] = {1, 2, 1};
    static const char *const names[UNITS] = {"a", "b", "c"};
    static const uint32_t shapes[4][2] = {{1, 1}, {2, 1}, {1, 2}, {2, 2}};
    const uint8_t shape = byte(in), more = byte(in);
    const uint32_t *replicas = shapes[shape & 3];
    struct ctl_options o = {.steps = 5, .eval_every = 2, .checkpoint_every = more & 3, .evaluates = true, .clip = 1};
    o.job = 7;
    o.micro_batches = LEAVES;
    o.targets = 10;
    o.param_count = o.units = UNITS;
    o.param_names = names;
    o.costs = costs;
    o.state_bytes = bytes;
    o.replicas = replicas;
    o.stages = 1 + (shape >> 2 & 1);
    o.workers = replicas[0] + (o.stages > 1 ? replicas[1] : 0);
    o.schedule = PLAN_1F1B;
    o.chunks = o.group = 1;
    o.split = more & 4;
    o.shadow = more & 8;
    o.respawn = more & 16;
    o.recovery_checkpoint = more & 32;
    o.join_ns = 1000;
    o.patience_ns = 2000;
    const struct ctl_host host = {
        .arg = w, .send = host_send, .drop = host_drop, .append = host_append, .spawn = host_spawn};
    struct ctl *ctl = NULL;
    BG_ASSERT(ctl_create(&o, &host, NULL, &ctl) == BG_OK);
    BG_ASSERT(ctl_start(ctl, 0, NULL, NULL) == BG_OK);
    return ctl;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    struct world w = {0};
    struct message_hello hello = {.version = MESSAGE_VERSION};
    struct bg_error err = {0};
    w.ctl = start(&in, &w);
    for (uint64_t now = 1; in.left > 0 && now < 400; now++) {
        const uint8_t what = byte(&in);
        if (what < 40) {
            hello.member = what < 8 ? byte(&in) % MEMBERS : 0;
            hello.token = byte(&in);
            hello.role = byte(&in) & 1;
            (void)ctl_hello(w.ctl, now * 10, &hello);
        } else if (what < 50) {
            ctl_lost(w.ctl, now * 10, 1 + byte(&in) % MEMBERS, "gone");
        } else if (what < 55) {
            ctl_spawn_ended(w.ctl, now * 10, byte(&in), "gone");
        } else if (what < 58) {
            ctl_stop(w.ctl, now * 10);
        } else if (what < 130) {
            for (uint32_t m = 1; m <= MEMBERS; m++)
                if (what < 100 || byte(&in) & 1)
                    do_duty(&w, now * 10, m);
        } else {
            say(&in, &w, now * 10);
        }
        ctl_tick(w.ctl, now * 10);
        char text[200];
        ctl_describe(w.ctl, text, sizeof text);
        if (ctl_ended(w.ctl, &err) == CTL_FAILED)
            BG_ASSERT(err.text[0] != '\0');
    }
    ctl_destroy(w.ctl);
    return 0;
}
