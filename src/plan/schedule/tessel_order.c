// Orders of tasks on devices by branching on pairs: the pair with the least freedom first, its freer direction first.
// Deterministic: the budget counts work, not time.
#include "plan/schedule/tessel_int.h"

#include "base/mem.h"

#define UNBOUND (INT64_MIN / 4)

static int64_t *bound_of(const struct tessel_orders *o, uint32_t from, uint32_t to)
{
    return &o->bound[(uint64_t)from * o->nodes + to];
}

static void spend(struct tessel_orders *o, uint64_t work)
{
    *o->budget -= *o->budget < work ? *o->budget : work;
}

static void set_bound(struct tessel_orders *o, uint32_t at, int64_t value)
{
    if (o->trail_count == o->trail_capacity) {
        o->trail_capacity = o->trail_capacity ? 2 * o->trail_capacity : 1024;
        o->trail = bg_realloc_array(o->trail, o->trail_capacity, sizeof *o->trail);
    }
    o->trail[o->trail_count++] = (struct tessel_change){at, o->bound[at]};
    o->bound[at] = value;
}

void tessel_orders_undo(struct tessel_orders *o, uint32_t trail_count)
{
    while (o->trail_count > trail_count) {
        const struct tessel_change *change = &o->trail[--o->trail_count];
        o->bound[change->at] = change->before;
    }
}

bool tessel_orders_bound(struct tessel_orders *o, uint32_t from, uint32_t to, int64_t least)
{
    const uint32_t n = o->nodes;
    if (*bound_of(o, from, to) >= least)
        return true;
    if (*bound_of(o, to, from) + least > 0)
        return false;
    spend(o, n);
    for (uint32_t a = 0; a < n; a++) {
        const int64_t before = *bound_of(o, a, from);
        if (before == UNBOUND || before + least <= *bound_of(o, a, to))
            continue;
        spend(o, n);
        for (uint32_t b = 0; b < n; b++) {
            const int64_t behind = *bound_of(o, to, b);
            if (behind != UNBOUND && before + least + behind > *bound_of(o, a, b))
                set_bound(o, a * n + b, before + least + behind);
        }
    }
    return true;
}

bool tessel_orders_end_by(struct tessel_orders *o, int64_t time)
{
    return tessel_orders_bound(o, o->count + 1, o->count, -time);
}

void tessel_orders_init(struct tessel_orders *o, const struct tessel_task *tasks, uint32_t count, const int64_t *room,
                        uint64_t *budget)
{
    *o = (struct tessel_orders){.tasks = tasks, .count = count, .nodes = count + 2, .room = room, .budget = budget};
    o->bound = bg_alloc_array((uint64_t)o->nodes * o->nodes, sizeof *o->bound);
    o->pairs = bg_alloc_array((uint64_t)count * count + 1, sizeof *o->pairs);
    for (uint32_t a = 0; a < o->nodes; a++)
        for (uint32_t b = 0; b < o->nodes; b++)
            *bound_of(o, a, b) = a == b ? 0 : UNBOUND;
    *bound_of(o, count, count + 1) = 0;
    for (uint32_t a = 0; a < count; a++) {
        *bound_of(o, count, a) = 0;
        *bound_of(o, a, count + 1) = tasks[a].span;
        if (tasks[a].span > *bound_of(o, count, count + 1))
            *bound_of(o, count, count + 1) = tasks[a].span;
        for (uint32_t b = a + 1; b < count; b++)
            if (tasks[a].devices & tasks[b].devices) {
                o->pairs[2 * o->pair_count] = a;
                o->pairs[2 * o->pair_count++ + 1] = b;
            }
    }
}

void tessel_orders_fini(struct tessel_orders *o)
{
    bg_free(o->bound);
    bg_free(o->pairs);
    bg_free(o->trail);
}

static bool is_before(const struct tessel_orders *o, uint32_t a, uint32_t b)
{
    return *bound_of(o, a, b) >= o->tasks[a].span;
}

// How much later b may start than right behind a; below 0: never behind a.
static int64_t slack(const struct tessel_orders *o, uint32_t a, uint32_t b)
{
    return -(*bound_of(o, b, a) + o->tasks[a].span);
}

static bool put_before(struct tessel_orders *o, uint32_t a, uint32_t b)
{
    return tessel_orders_bound(o, a, b, o->tasks[a].span);
}

// Memory of a device right after task t started, at least: with all that is before it, and of what may be before it
// only what gives back. Where that leaves no choice about a task, the choice is made.
static bool settle_memory_of(struct tessel_orders *o, uint32_t t, uint32_t device)
{
    int64_t left = o->room[device] - o->tasks[t].memory;
    spend(o, o->count);
    for (uint32_t u = 0; u < o->count; u++)
        if (u != t && o->tasks[u].devices >> device & 1 &&
            (is_before(o, u, t) || (o->tasks[u].memory < 0 && !is_before(o, t, u))))
            left -= o->tasks[u].memory;
    if (left < 0)
        return false;
    for (uint32_t u = 0; u < o->count; u++) {
        const int64_t memory = o->tasks[u].memory;
        if (u == t || !(o->tasks[u].devices >> device & 1) || is_before(o, u, t) || is_before(o, t, u))
            continue;
        if ((memory < 0 && -memory > left && !put_before(o, u, t)) || (memory > left && !put_before(o, t, u)))
            return false;
    }
    return true;
}

static bool settle_memory(struct tessel_orders *o)
{
    for (uint32_t t = 0; t < o->count; t++)
        for (uint32_t d = 0; d < 64 && o->tasks[t].memory > 0; d++)
            if (o->tasks[t].devices >> d & 1 && o->room[d] != TESSEL_NO_LIMIT && !settle_memory_of(o, t, d))
                return false;
    return true;
}

bool tessel_orders_settle(struct tessel_orders *o)
{
    uint32_t before;
    do {
        before = o->trail_count;
        spend(o, o->pair_count);
        for (uint32_t p = 0; p < o->pair_count; p++) {
            const uint32_t a = o->pairs[2 * p], b = o->pairs[2 * p + 1];
            if (is_before(o, a, b) || is_before(o, b, a))
                continue;
            const bool a_first = slack(o, a, b) >= 0, b_first = slack(o, b, a) >= 0;
            if ((!a_first && !b_first) || (!a_first && !put_before(o, b, a)) || (!b_first && !put_before(o, a, b)))
                return false;
        }
        if (!settle_memory(o))
            return false;
    } while (o->trail_count != before);
    return true;
}

static enum tessel_answer search(struct tessel_orders *o)
{
    if (!tessel_orders_settle(o))
        return TESSEL_NO;
    if (!*o->budget)
        return TESSEL_SPENT;
    uint32_t first = 0, second = 0;
    int64_t least = INT64_MAX;
    for (uint32_t p = 0; p < o->pair_count; p++) {
        const uint32_t a = o->pairs[2 * p], b = o->pairs[2 * p + 1];
        if (is_before(o, a, b) || is_before(o, b, a))
            continue;
        const int64_t ab = slack(o, a, b), ba = slack(o, b, a), low = ab < ba ? ab : ba;
        if (low < least) {
            least = low;
            first = ab >= ba ? a : b;
            second = ab >= ba ? b : a;
        }
    }
    if (least == INT64_MAX)
        return TESSEL_YES;
    const uint32_t mark = o->trail_count;
    for (int way = 0; way < 2; way++) {
        const uint32_t a = way ? second : first, b = way ? first : second;
        const enum tessel_answer answer = put_before(o, a, b) ? search(o) : TESSEL_NO;
        if (answer != TESSEL_NO)
            return answer;
        tessel_orders_undo(o, mark);
    }
    return TESSEL_NO;
}

enum tessel_answer tessel_orders_find(struct tessel_orders *o, int64_t *start)
{
    const uint32_t mark = o->trail_count;
    const enum tessel_answer answer = search(o);
    for (uint32_t t = 0; t < o->count && answer == TESSEL_YES; t++)
        start[t] = *bound_of(o, o->count, t);
    tessel_orders_undo(o, mark);
    return answer;
}
