// A lowered plan in time. Events are the ends of what workers compute and the arrivals of messages; between two events
// every computing worker goes on at a constant rate, its share of its host's cores. What a worker does itself it does
// one after the other, as train/worker.c has it: first what has arrived, then one op. Equal times go by order of
// sending, then by worker, so that a plan has one timeline.
#include "plan/cost/timeline_int.h"

#include "base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum letter_kind { LETTER_VALUE, LETTER_STATE, LETTER_PART, LETTER_ROOT, LETTER_COMMIT };
struct letter {
    double arrives;
    uint64_t order;
    enum letter_kind kind;
    uint32_t from, to;
    size_t what; // value: cell of `here`; state: (worker, unit); part and root: share
    double bytes, frames;
    size_t span; // of its SEND, or none
};
enum task_kind { TASK_COMPUTE, TASK_SEND, TASK_TAKE, TASK_REDUCE, TASK_APPLY };
struct task { // work of a worker itself, and what it does at its end
    enum task_kind kind;
    double work;
    struct letter letter; // of SEND and TAKE
    size_t share;         // of REDUCE
};
struct queue { // first in, first out
    void *items;
    size_t first, count, capacity;
};

#define NO_SPAN SIZE_MAX

struct actor { // a worker
    size_t op;
    uint32_t units_left; // of the op at hand, from its last unit down; 0: not begun
    bool in_op, voted, done;
    double left; // of the task at hand, in seconds alone on its machine
    double rate;
    size_t op_span;
    struct task task;
    struct queue tasks, inbox;
    uint32_t roots_missing;
    struct plan_sums *sums; // (stages)
    uint32_t folds;         // of whole sums, of the op at hand
    uint32_t host;          // the first worker of it
    double quota_left;      // of its machine's quota, in seconds of its threads
    double period_end, ran; // when the quota comes anew; when it last ran
    double work;            // seconds of its own at full rate
};
struct walk {
    const struct plan *plan;
    const struct plan_profile *profile;
    struct plan_timeline *out;
    struct plan_traffic traffic;
    struct actor *actors;
    bool *busy, *stirred; // (workers): computes now; has ended something or got a message since it last went on
    struct letter *heap;
    size_t heap_count, heap_capacity;
    uint64_t order;
    double *link_free; // (workers, workers)
    uint8_t *here;     // (2, stages, items, slices): the value is at its consumer
    uint8_t *state;    // (workers, units): came by MOVE
    uint8_t *posted;   // (workers, shares)
    double *threads;   // (workers): computing now, of the host whose first worker it is
    struct plan_cores cores;
    double now;
    uint32_t slices, voters, votes;
    size_t span_capacity;
};

// ---- Containers ----
static void queue_push(struct queue *q, const void *item, size_t size)
{
    if (q->first + q->count == q->capacity) {
        if (q->first > 0) {
            memmove(q->items, (char *)q->items + q->first * size, q->count * size);
            q->first = 0;
        } else {
            q->capacity = q->capacity ? 2 * q->capacity : 8;
            q->items = bg_realloc_array(q->items, q->capacity, size);
        }
    }
    memcpy((char *)q->items + (q->first + q->count++) * size, item, size);
}

static void queue_pop(struct queue *q, void *item, size_t size)
{
    memcpy(item, (char *)q->items + q->first * size, size);
    q->first = --q->count ? q->first + 1 : 0;
}

static bool earlier(const struct letter *a, const struct letter *b)
{
    return a->arrives < b->arrives || (a->arrives == b->arrives && a->order < b->order);
}

static void heap_push(struct walk *k, struct letter letter)
{
    if (k->heap_count == k->heap_capacity) {
        k->heap_capacity = k->heap_capacity ? 2 * k->heap_capacity : 64;
        k->heap = bg_realloc_array(k->heap, k->heap_capacity, sizeof *k->heap);
    }
    size_t at = k->heap_count++;
    for (; at > 0 && earlier(&letter, &k->heap[(at - 1) / 2]); at = (at - 1) / 2)
        k->heap[at] = k->heap[(at - 1) / 2];
    k->heap[at] = letter;
}

static struct letter heap_pop(struct walk *k)
{
    const struct letter first = k->heap[0], last = k->heap[--k->heap_count];
    size_t at = 0;
    for (size_t next = 1; next < k->heap_count; next = 2 * at + 1) {
        next += next + 1 < k->heap_count && earlier(&k->heap[next + 1], &k->heap[next]);
        if (!earlier(&k->heap[next], &last))
            break;
        k->heap[at] = k->heap[next];
        at = next;
    }
    k->heap[at] = last;
    return first;
}

static size_t span_add(struct walk *k, uint32_t worker, size_t op)
{
    struct plan_timeline *t = k->out;
    if (t->span_count == k->span_capacity) {
        k->span_capacity = k->span_capacity ? 2 * k->span_capacity : 256;
        t->spans = bg_realloc_array(t->spans, k->span_capacity, sizeof *t->spans);
    }
    t->spans[t->span_count] = (struct plan_span){worker, (uint32_t)op, k->now, k->now};
    return t->span_count++;
}

// ---- Messages ----
static double message_work(const struct walk *k, const struct letter *letter)
{
    return letter->frames * k->profile->message_s + letter->bytes * k->profile->message_byte_s;
}

static void send_later(struct walk *k, struct letter letter)
{
    const struct task task = {.kind = TASK_SEND, .work = message_work(k, &letter), .letter = letter};
    queue_push(&k->actors[letter.from].tasks, &task, sizeof task);
}

static void depart(struct walk *k, struct letter letter)
{
    const struct plan_machine *from = &k->profile->machines[letter.from], *to = &k->profile->machines[letter.to];
    const struct plan_link *link = from->host == to->host ? &k->profile->inner : &k->profile->outer;
    const size_t pair = (size_t)letter.from * k->plan->workers + letter.to;
    const double start = k->link_free[pair] > k->now ? k->link_free[pair] : k->now;
    k->link_free[pair] = start + (link->bytes_s > 0 ? letter.bytes / link->bytes_s : 0);
    letter.arrives = k->link_free[pair] + link->latency_s;
    letter.order = k->order++;
    k->out->link_bytes[pair] += letter.bytes;
    if (letter.span != NO_SPAN)
        k->out->spans[letter.span].end_s = letter.arrives;
    heap_push(k, letter);
}

// ---- Sums ----
static void reduce_later(struct walk *k, size_t share)
{
    const struct plan_share *s = &k->traffic.shares[share];
    const uint32_t folds = s->nodes > 1 ? s->nodes - 1 : 1; // one node is copied
    const struct task task = {
        .kind = TASK_REDUCE, .work = s->bytes * folds * k->profile->reduce_byte_s, .share = share};
    queue_push(&k->actors[s->owner].tasks, &task, sizeof task);
}

static void arrive_part(struct walk *k, size_t share)
{
    struct plan_share *s = &k->traffic.shares[share];
    if (s->waits > 0 && --s->waits == 0)
        reduce_later(k, share);
}

static bool has_traffic(const struct walk *k, const struct plan_share *share)
{
    return k->plan->workers > 1 && share->frames > 0 && share->nodes > 0;
}

// The worker's nodes of a share are final: its owner gets them.
static void post_share(struct walk *k, uint32_t worker, uint32_t stage, size_t share)
{
    const struct plan_share *s = &k->traffic.shares[share];
    uint8_t *posted = &k->posted[(size_t)worker * k->traffic.first[k->plan->units] + share];
    const uint32_t nodes = k->traffic.nodes[(size_t)stage * k->plan->workers + worker];
    if (*posted || !has_traffic(k, s))
        return;
    *posted = 1;
    if (s->owner == worker)
        arrive_part(k, share);
    else if (nodes > 0)
        send_later(k, (struct letter){.kind = LETTER_PART,
                                      .from = worker,
                                      .to = s->owner,
                                      .what = share,
                                      .bytes = s->bytes * nodes,
                                      .frames = s->frames * nodes,
                                      .span = NO_SPAN});
}

static void post_unit(struct walk *k, uint32_t worker, uint32_t stage, uint32_t unit)
{
    for (size_t i = k->traffic.first[unit]; i < k->traffic.first[unit + 1]; i++)
        post_share(k, worker, stage, i);
}

static bool needs(const struct walk *k, uint32_t worker, uint32_t unit)
{
    return k->traffic.needs[(size_t)worker * k->plan->units + unit];
}

static void root_made(struct walk *k, size_t share)
{
    const struct plan_share *s = &k->traffic.shares[share];
    k->actors[s->owner].roots_missing -= needs(k, s->owner, s->unit);
    for (uint32_t w = 0; w < k->plan->workers; w++)
        if (w != s->owner && needs(k, w, s->unit))
            send_later(k, (struct letter){.kind = LETTER_ROOT,
                                          .from = s->owner,
                                          .to = w,
                                          .what = share,
                                          .bytes = s->bytes,
                                          .frames = s->frames,
                                          .span = NO_SPAN});
}

// ---- Ops ----
static size_t cell_of(const struct walk *k, const struct plan_op *op, uint32_t stage)
{
    const size_t cells = plan_cells(k->plan) * k->slices;
    return (op->flags & PLAN_GRAD ? cells : 0) + plan_cell(k->plan, stage, op->item) * k->slices + op->slice;
}

static double unit_work(const struct walk *k, const struct plan_op *op, uint32_t unit, uint32_t folds)
{
    const struct plan_unit *u = &k->profile->units[unit];
    const bool weight = op->kind == PLAN_W || (op->kind == PLAN_B && op->flags & PLAN_FUSED);
    double work = 0;
    if (op->kind == PLAN_F || (op->kind == PLAN_B && op->flags & PLAN_RECOMPUTE))
        work += u->forward_s;
    if (op->kind == PLAN_B)
        work += u->input_s;
    if (weight)
        work += u->weight_s;
    work *= plan_item_leaves(k->plan, op->item);
    if (op->kind != PLAN_W)
        work /= k->slices;
    return work + folds * plan_gradient_bytes(u) * k->profile->reduce_byte_s;
}

// A stash that waits on disk comes in for an op, unless the op before left it here: that of the same item, or for a
// forward the room of one of its stage that is done.
static double disk_work(const struct walk *k, const struct actor *a, const struct plan_op *op,
                        const struct plan_op *ops)
{
    const struct plan_op *before = NULL;
    bool offload = op->flags & PLAN_OFFLOAD;
    for (size_t i = a->op; i-- > 0 && !before;)
        before = ops[i].kind <= PLAN_W ? &ops[i] : NULL;
    if (op->kind == PLAN_W)
        for (size_t i = a->op; i-- > 0 && !offload;)
            offload = ops[i].kind == PLAN_B && ops[i].stage == op->stage && ops[i].item == op->item &&
                      ops[i].flags & PLAN_OFFLOAD;
    const bool ended = before && (before->kind == PLAN_W || (before->kind == PLAN_B && before->flags & PLAN_FUSED));
    if (!offload || (before && before->stage == op->stage &&
                     (before->item == op->item || (op->kind == PLAN_F && op->slice == 0 && ended))))
        return 0;
    return plan_stash_bytes(k->plan, k->profile, op->stage) * plan_item_leaves(k->plan, op->item) *
           k->profile->disk_byte_s;
}

// The next part of a compute op: all of it, or one unit where sums leave unit by unit.
static void compute_on(struct walk *k, struct actor *a, const struct plan_op *op)
{
    const struct plan_stage *stage = &k->plan->stages[op->stage];
    const bool weight = op->kind == PLAN_W || (op->kind == PLAN_B && op->flags & PLAN_FUSED && op->slice == 0);
    const uint32_t first = stage->unit_first, end = stage->unit_end;
    struct task task = {.kind = TASK_COMPUTE};
    if (a->units_left == 0) {
        a->units_left = end - first;
        a->folds = weight ? plan_sums_add(&a->sums[op->stage], k->plan->items[op->item], k->plan->micro_batches) : 0;
        task.work = k->profile->op_s + disk_work(k, a, op, k->plan->lists[a - k->actors].ops);
    }
    uint32_t count = weight && op->flags & PLAN_LAST ? 1 : a->units_left;
    for (; count > 0; count--)
        task.work += unit_work(k, op, first + --a->units_left, a->folds);
    queue_push(&a->tasks, &task, sizeof task);
}

static void cast_vote(struct walk *k, uint32_t worker)
{
    k->actors[worker].voted = true;
    if (++k->votes < k->voters)
        return;
    for (uint32_t w = 0; w < k->plan->workers; w++)
        if (k->actors[w].voted)
            heap_push(k, (struct letter){.arrives = k->now + k->profile->commit_s,
                                         .order = k->order++,
                                         .kind = LETTER_COMMIT,
                                         .from = w,
                                         .to = w,
                                         .span = NO_SPAN});
}

static void run_collective(struct walk *k, uint32_t worker, const struct plan_op *op)
{
    const struct plan_stage *stage = &k->plan->stages[op->stage];
    const size_t first = k->traffic.first[stage->unit_first], end = k->traffic.first[stage->unit_end];
    for (size_t i = first; i < end && op->flags & PLAN_REDUCE; i++)
        if (plan_run_in_chunk(k->plan, op->stage, k->traffic.shares[i].run, op->slice))
            post_share(k, worker, op->stage, i);
}

static void run_send(struct walk *k, uint32_t worker, const struct plan_op *op)
{
    const bool grad = op->flags & PLAN_GRAD, move = op->kind == PLAN_MOVE;
    struct letter letter = {.kind = move ? LETTER_STATE : LETTER_VALUE,
                            .from = worker,
                            .to = op->peer,
                            .frames = 1,
                            .span = span_add(k, worker, k->actors[worker].op)};
    if (move) {
        letter.what = (size_t)op->peer * k->plan->units + op->item;
        letter.bytes = 3 * k->profile->units[op->item].parameter_bytes;
    } else { // named by who needs it; the output of the unit before the cut, or its gradient
        const uint32_t cut = grad ? k->plan->stages[op->stage].unit_first : k->plan->stages[op->stage].unit_end;
        letter.what = cell_of(k, op, grad ? op->stage - 1u : op->stage + 1u);
        letter.bytes = k->profile->units[cut - 1].cut_bytes * plan_item_leaves(k->plan, op->item) / k->slices;
    }
    send_later(k, letter);
}

// Begins the op that is next, if what it needs is here.
static bool begin_op(struct walk *k, uint32_t worker, const struct plan_op *op)
{
    struct actor *a = &k->actors[worker];
    switch ((enum plan_op_kind)op->kind) {
    case PLAN_F:
    case PLAN_B:
    case PLAN_W:
        a->op_span = span_add(k, worker, a->op);
        compute_on(k, a, op);
        return true;
    case PLAN_RECV:
        return k->here[cell_of(k, op, op->stage)];
    case PLAN_SEND:
        run_send(k, worker, op);
        return true;
    case PLAN_MOVE:
        if (op->flags & PLAN_OUT)
            run_send(k, worker, op);
        return op->flags & PLAN_OUT || k->state[(size_t)worker * k->plan->units + op->item];
    case PLAN_COLL:
        run_collective(k, worker, op);
        return true;
    case PLAN_STEP:
        if (a->op_span == NO_SPAN)
            a->op_span = span_add(k, worker, a->op);
        if (a->roots_missing > 0)
            return false;
        cast_vote(k, worker);
        return true;
    case PLAN_EMPTY:
        return true;
    }
    return true;
}

// What was computed of the op at hand is done; the op goes on, or the next one is at hand.
static void end_tasks(struct walk *k, uint32_t worker)
{
    struct actor *a = &k->actors[worker];
    const struct plan_op *op = &k->plan->lists[worker].ops[a->op];
    if (op->kind <= PLAN_W && a->units_left > 0) {
        compute_on(k, a, op);
        return;
    }
    if (op->kind == PLAN_STEP && !a->done)
        return; // until COMMIT has come and is applied
    if (a->op_span != NO_SPAN)
        k->out->spans[a->op_span].end_s = k->now;
    a->op_span = NO_SPAN;
    a->in_op = false;
    a->op++;
}

// ---- Workers ----
static void finish_task(struct walk *k, uint32_t worker)
{
    struct actor *a = &k->actors[worker];
    const struct task task = a->task;
    const struct plan_op *op;
    k->busy[worker] = false;
    k->stirred[worker] = true;
    switch (task.kind) {
    case TASK_COMPUTE:
        op = &k->plan->lists[worker].ops[a->op];
        if (op->flags & PLAN_LAST && (op->kind == PLAN_W || (op->flags & PLAN_FUSED && op->slice == 0)))
            post_unit(k, worker, op->stage, k->plan->stages[op->stage].unit_first + a->units_left);
        break;
    case TASK_SEND:
        depart(k, task.letter);
        break;
    case TASK_REDUCE:
        root_made(k, task.share);
        break;
    case TASK_APPLY:
        a->done = true;
        break;
    case TASK_TAKE:
        if (task.letter.kind == LETTER_VALUE)
            k->here[task.letter.what] = 1;
        else if (task.letter.kind == LETTER_STATE)
            k->state[task.letter.what] = 1;
        else if (task.letter.kind == LETTER_PART)
            arrive_part(k, task.letter.what);
        else
            a->roots_missing--;
        break;
    }
}

static void take_letter(struct walk *k, uint32_t worker)
{
    struct actor *a = &k->actors[worker];
    struct task task = {.kind = TASK_TAKE};
    queue_pop(&a->inbox, &task.letter, sizeof task.letter);
    if (task.letter.kind == LETTER_COMMIT) {
        task.kind = TASK_APPLY;
        task.work = k->traffic.state_bytes[worker] * k->profile->step_byte_s;
    } else {
        task.work = message_work(k, &task.letter);
        if (task.letter.kind == LETTER_ROOT) // is copied
            task.work += task.letter.bytes * k->profile->reduce_byte_s;
    }
    queue_push(&a->tasks, &task, sizeof task);
}

// Goes on until the worker computes something that takes time, or waits.
static void go_on(struct walk *k, uint32_t worker)
{
    struct actor *a = &k->actors[worker];
    const struct plan_list *list = &k->plan->lists[worker];
    k->stirred[worker] = false;
    while (!k->busy[worker]) {
        if (a->tasks.count > 0) {
            queue_pop(&a->tasks, &a->task, sizeof a->task);
            a->left = a->task.work / k->profile->machines[worker].speed;
            k->busy[worker] = true;
            if (a->left <= 0)
                finish_task(k, worker);
        } else if (a->in_op && !(list->ops[a->op].kind == PLAN_STEP && !a->done)) {
            end_tasks(k, worker);
        } else if (a->inbox.count > 0) {
            take_letter(k, worker);
        } else if (a->in_op || a->op == list->count) {
            return;
        } else {
            a->in_op = begin_op(k, worker, &list->ops[a->op]);
            if (!a->in_op)
                return;
        }
    }
}

// Speed of a thread among so many on these cores. As many cores as there are threads too many have two of them.
static double rate_of(const struct plan_profile *profile, double cores, double threads)
{
    if (cores <= 0 || threads <= cores)
        return 1;
    const double shared = threads < 2 * cores ? threads - cores : cores;
    const double worth = profile->sharing > 0 ? profile->sharing : 1;
    return (cores - shared * (1 - worth)) / threads;
}

// A quota comes anew with every period; the first one begins when the worker does, after a period without work again.
static void renew_quota(const struct walk *k, struct actor *a, const struct plan_machine *machine)
{
    const double period = machine->period_s, slack = 1e-9 * period;
    if (k->now + slack < a->period_end)
        return;
    const bool slept = a->ran + slack < a->period_end - period;
    a->period_end =
        slept ? k->now + period : a->period_end + period * (1 + floor((k->now + slack - a->period_end) / period));
    a->quota_left = machine->quota * period;
}

// Whether a quota, spent or not, is worth a look: over many periods it is a slower machine.
enum { PERIODS_MANY = 1000 };
static bool in_periods(const struct actor *a, const struct plan_machine *machine)
{
    return machine->quota > 0 && a->left < PERIODS_MANY * machine->quota * machine->period_s;
}

static bool is_held(const struct actor *a, const struct plan_machine *machine)
{
    return in_periods(a, machine) && a->quota_left <= 1e-9 * machine->quota * machine->period_s;
}

// How fast each worker goes on. Returns for how long that holds, messages aside.
static double set_rates(struct walk *k)
{
    const uint32_t workers = k->plan->workers;
    const struct plan_machine *machines = k->profile->machines;
    double next = INFINITY;
    memset(k->threads, 0, workers * sizeof *k->threads);
    for (uint32_t w = 0; w < workers; w++) {
        struct actor *a = &k->actors[w];
        k->cores.runners[w].wants = false;
        if (!k->busy[w])
            continue;
        if (in_periods(a, &machines[w]))
            renew_quota(k, a, &machines[w]);
        k->cores.runners[w].wants = !is_held(a, &machines[w]);
        k->cores.runners[w].left = a->left;
        if (!is_held(a, &machines[w]))
            k->threads[a->host] +=
                in_periods(a, &machines[w]) ? machines[w].threads : plan_machine_threads(&machines[w]);
    }
    plan_cores_turn(&k->cores, k->now);
    for (uint32_t w = 0; w < workers; w++) {
        struct actor *a = &k->actors[w];
        double until = INFINITY;
        if (!k->busy[w])
            continue;
        if (is_held(a, &machines[w])) {
            a->rate = 0;
            next = fmin(next, a->period_end - k->now);
            continue;
        }
        a->rate = k->cores.runners[w].count > 0 ? plan_cores_rate(&k->cores, w, k->now, &until)
                                                : rate_of(k->profile, machines[w].cores, k->threads[a->host]);
        next = fmin(next, until);
        if (a->rate <= 0)
            continue;
        if (in_periods(a, &machines[w]))
            next = fmin(next, fmin(a->quota_left / a->rate, a->period_end - k->now));
        else if (machines[w].quota > 0)
            a->rate *= machines[w].quota;
        next = fmin(next, a->left / a->rate);
    }
    return next;
}

// Until the next event: a task that ends, a message that arrives, a quota. False: nothing is on its way.
static bool pass_time(struct walk *k)
{
    double next = set_rates(k);
    if (k->heap_count > 0)
        next = fmin(next, k->heap[0].arrives - k->now);
    if (next == INFINITY)
        return false;
    k->now += next;
    for (uint32_t w = 0; w < k->plan->workers; w++) {
        struct actor *a = &k->actors[w];
        if (!k->busy[w])
            continue;
        const bool ends = a->rate > 0 && a->left / a->rate <= next * (1 + 1e-12);
        a->work += ends ? a->left : next * a->rate;
        a->left -= next * a->rate;
        a->quota_left -= next * a->rate;
        a->ran = k->now;
        if (a->task.kind == TASK_COMPUTE)
            k->out->workers[w].busy_s += next;
        if (ends)
            finish_task(k, w);
    }
    while (k->heap_count > 0 && k->heap[0].arrives <= k->now) {
        const struct letter letter = heap_pop(k);
        queue_push(&k->actors[letter.to].inbox, &letter, sizeof letter);
        k->stirred[letter.to] = true;
    }
    return true;
}

// ---- The whole ----
static void walk_init(struct walk *k)
{
    const struct plan *plan = k->plan;
    const size_t workers = plan->workers;
    plan_traffic_init(plan, k->profile, &k->traffic);
    plan_cores_init(plan, k->profile, &k->cores);
    k->slices = plan_op_slices(plan);
    k->actors = bg_alloc_array(workers, sizeof *k->actors);
    k->busy = bg_alloc_array(workers, sizeof *k->busy);
    k->stirred = bg_alloc_array(workers, sizeof *k->stirred);
    memset(k->stirred, true, workers);
    k->threads = bg_alloc_array(workers, sizeof *k->threads);
    k->link_free = bg_alloc_array(workers * workers, sizeof *k->link_free);
    k->here = bg_alloc_array(2 * plan_cells(plan) * k->slices, 1);
    k->state = bg_alloc_array(workers * plan->units, 1);
    k->posted = bg_alloc_array(workers * k->traffic.first[plan->units] + 1, 1);
    k->out->workers = bg_alloc_array(workers, sizeof *k->out->workers);
    k->out->worker_count = plan->workers;
    k->out->link_bytes = bg_alloc_array(workers * workers, sizeof *k->out->link_bytes);
    for (uint32_t w = 0; w < workers; w++) {
        struct actor *a = &k->actors[w];
        a->op_span = NO_SPAN;
        a->ran = -INFINITY;
        a->sums = bg_alloc_array(plan->stage_count, sizeof *a->sums);
        while (k->profile->machines[a->host].host != k->profile->machines[w].host)
            a->host++;
        for (size_t i = 0; i < plan->lists[w].count; i++)
            if (plan->lists[w].ops[i].kind == PLAN_STEP) {
                k->voters++;
                break;
            }
        for (uint32_t u = 0; u < plan->units; u++)
            for (size_t i = k->traffic.first[u]; needs(k, w, u) && i < k->traffic.first[u + 1]; i++)
                a->roots_missing += has_traffic(k, &k->traffic.shares[i]);
    }
}

static void walk_fini(struct walk *k)
{
    for (uint32_t w = 0; w < k->plan->workers; w++) {
        bg_free(k->actors[w].tasks.items);
        bg_free(k->actors[w].inbox.items);
        bg_free(k->actors[w].sums);
    }
    plan_traffic_fini(&k->traffic);
    plan_cores_fini(&k->cores);
    void *const parts[] = {k->actors, k->busy,  k->stirred, k->threads, k->link_free,
                           k->here,   k->state, k->posted,  k->heap};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        bg_free(parts[i]);
}

static bg_status find_stuck(const struct walk *k, struct bg_error *err)
{
    for (uint32_t w = 0; w < k->plan->workers; w++) {
        const struct plan_list *list = &k->plan->lists[w];
        char text[PLAN_OP_TEXT];
        if (k->actors[w].op == list->count)
            continue;
        plan_op_text(&list->ops[k->actors[w].op], text);
        return bg_fail(err, BG_INVALID, "plan: worker %u waits at %s for what never comes", w, text);
    }
    return BG_OK;
}

static int by_start(const void *a, const void *b)
{
    const struct plan_span *x = a, *y = b;
    if (x->worker != y->worker)
        return x->worker < y->worker ? -1 : 1;
    if (x->start_s != y->start_s)
        return x->start_s < y->start_s ? -1 : 1;
    return x->op < y->op ? -1 : x->op > y->op;
}

static void sum_up(struct walk *k)
{
    struct plan_timeline *t = k->out;
    const uint32_t workers = t->worker_count;
    double first = INFINITY, last = 0;
    qsort(t->spans, t->span_count, sizeof *t->spans, by_start);
    for (size_t i = 0; i < t->span_count; i++) {
        const struct plan_span *span = &t->spans[i];
        struct plan_worker_time *w = &t->workers[span->worker];
        if (k->plan->lists[span->worker].ops[span->op].kind > PLAN_W)
            continue;
        w->first_s = w->last_s == 0 ? span->start_s : w->first_s;
        w->last_s = span->end_s;
        first = span->start_s < first ? span->start_s : first;
        last = span->end_s > last ? span->end_s : last;
    }
    t->step_s = k->now;
    t->compute_s = last > first ? last - first : 0;
    for (uint32_t w = 0; w < workers; w++) {
        struct plan_worker_time *time = &t->workers[w];
        const struct plan_machine *machine = &k->profile->machines[w];
        const double idle = time->last_s - time->first_s - time->busy_s, work = k->actors[w].work;
        t->bubble_s = idle > t->bubble_s ? idle : t->bubble_s;
        time->peak_bytes = plan_worker_bytes(k->plan, k->profile, k->traffic.state_bytes[w], w);
        for (uint32_t p = 0; p < workers; p++) {
            time->sent_bytes += t->link_bytes[(size_t)w * workers + p];
            time->received_bytes += t->link_bytes[(size_t)p * workers + w];
        }
        time->joules = machine->watts * work + machine->idle_watts * (k->now > work ? k->now - work : 0);
        time->dollars = machine->dollars_hour * k->now / 3600;
        t->joules += time->joules;
        t->dollars += time->dollars;
    }
}

bg_status plan_timeline(const struct plan *plan, const struct plan_profile *profile, struct bg_error *err,
                        struct plan_timeline *timeline)
{
    if (profile->unit_count != plan->units)
        return bg_fail(err, BG_INVALID, "the plan has %u units, the profile %u", plan->units, profile->unit_count);
    if (profile->machine_count < plan->workers)
        return bg_fail(err, BG_INVALID, "the plan has %u workers, the profile %u machines", plan->workers,
                       profile->machine_count);
    struct plan_timeline out = {0};
    struct walk k = {.plan = plan, .profile = profile, .out = &out};
    walk_init(&k);
    do {
        for (uint32_t w = 0; w < plan->workers; w++)
            if (k.stirred[w])
                go_on(&k, w);
    } while (pass_time(&k));
    bg_status status = find_stuck(&k, err);
    if (!status)
        sum_up(&k);
    walk_fini(&k);
    if (status)
        plan_timeline_fini(&out);
    else
        *timeline = out;
    return status;
}

void plan_timeline_fini(struct plan_timeline *timeline)
{
    bg_free(timeline->spans);
    bg_free(timeline->workers);
    bg_free(timeline->link_bytes);
    *timeline = (struct plan_timeline){0};
}
