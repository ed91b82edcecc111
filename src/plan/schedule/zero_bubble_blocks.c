// V-Half and V-Min (Qi et al., "Pipeline Parallelism with Controllable Memory", NeurIPS'24): the two chunks of ZB-V
// with about half and a third of 1F1B's memory. The passes of one item form a block, the same for every item and six
// turns apart; then every pass outside the steady middle moves to the earliest turn that its inputs, its worker and the
// memory of the plain repetition allow; W goes where a turn is free. All in unit time.
#include "plan/schedule/schedule_int.h"

#include "base/mem.h"

#include <string.h>

// F of stage r, F of stage 2P-1-r, B of the latter, B of the former, W of any stage, W of the latter, of the former
enum pass { F0, F1, B0, B1, W, W0, W1, PASSES };
enum { STEADY_TURNS = 6, NOTHING = PASSES };

struct table {
    uint32_t workers, items, turns; // turns: more than can be needed
    uint32_t *at;                   // (workers, F0..B1, items): its turn
    uint8_t *slots;                 // (workers, turns) of enum pass
};

static uint32_t *at_of(const struct table *t, uint32_t w, uint32_t pass, uint32_t item)
{
    return &t->at[((size_t)w * W + pass) * t->items + item];
}

static uint8_t *slots_of(const struct table *t, uint32_t w)
{
    return &t->slots[(size_t)w * t->turns];
}

static bool is_forward(uint8_t pass)
{
    return pass <= F1;
}

static bool is_backward(uint8_t pass)
{
    return pass == B0 || pass == B1;
}

static bool is_weight(uint8_t pass)
{
    return pass == W || pass == W0 || pass == W1;
}

static uint32_t used_turns(const struct table *t, uint32_t w)
{
    uint32_t end = t->turns;
    while (end > 0 && slots_of(t, w)[end - 1] == NOTHING)
        end--;
    return end;
}

static void remove_w(struct table *t)
{
    for (size_t c = 0; c < (size_t)t->workers * t->turns; c++)
        if (is_weight(t->slots[c]))
            t->slots[c] = NOTHING;
}

// W of what has had its B, in the next free turn; with `chunks` of which stage, the later stage's first.
static void put_w(struct table *t, bool chunks)
{
    for (uint32_t w = 0; w < t->workers; w++) {
        uint8_t *slots = slots_of(t, w);
        uint32_t waiting[2] = {0, 0};
        const uint32_t end = used_turns(t, w);
        for (uint32_t turn = 0; turn < end || waiting[0] || waiting[1]; turn++) {
            if (is_backward(slots[turn]))
                waiting[chunks && slots[turn] == B1]++;
            if (slots[turn] != NOTHING || (!waiting[0] && !waiting[1]))
                continue;
            const uint32_t which = waiting[0] ? 0 : 1;
            slots[turn] = (uint8_t)(chunks ? W0 + which : W);
            waiting[which]--;
        }
    }
}

// Most chunks in flight on the worker. Where no W is placed yet, every free turn may be one.
static uint32_t peak_of(const struct table *t, uint32_t w, bool placed)
{
    const uint8_t *slots = slots_of(t, w);
    uint32_t held = 0, waiting = 0, most = 0;
    const uint32_t end = used_turns(t, w);
    for (uint32_t turn = 0; turn < end; turn++) {
        held += is_forward(slots[turn]);
        waiting += is_backward(slots[turn]);
        if (placed ? is_weight(slots[turn]) : slots[turn] == NOTHING && waiting > 0) {
            held--;
            waiting--;
        }
        most = held > most ? held : most;
    }
    return most;
}

// The turn of the worker's k-th backward of both legs.
static uint32_t backward_turn(const struct table *t, uint32_t w, uint32_t k)
{
    uint32_t i = 0, j = 0;
    for (;;) {
        const bool first = j == t->items || (i < t->items && *at_of(t, w, B0, i) < *at_of(t, w, B1, j));
        const uint32_t turn = first ? *at_of(t, w, B0, i) : *at_of(t, w, B1, j);
        if (i + j == k)
            return turn;
        i += first;
        j += !first;
    }
}

static uint32_t later(uint32_t left, uint32_t right)
{
    return left > right ? left : right;
}

// The first turn behind what F or B (item) needs of its neighbour, its own worker, the item before.
static uint32_t first_turn(const struct table *t, uint32_t w, uint8_t pass, uint32_t item)
{
    uint32_t turn = 0;
    const bool up = pass == F0 || pass == B0;
    if (up && w > 0)
        turn = later(turn, *at_of(t, w - 1, pass, item) + 1);
    if (!up && w + 1 < t->workers)
        turn = later(turn, *at_of(t, w + 1, pass, item) + 1);
    if (pass > F0)
        turn = later(turn, *at_of(t, w, pass - 1u, item) + 1);
    if (item > 0)
        turn = later(turn, *at_of(t, w, pass, item - 1) + 1);
    return turn;
}

// A later pass to the earliest free turn from `from` on that keeps the memory.
static uint32_t move_up(struct table *t, uint32_t w, uint32_t from, uint32_t now, uint32_t memory, bool placed)
{
    uint8_t *slots = slots_of(t, w);
    const uint8_t pass = slots[now];
    slots[now] = NOTHING;
    for (uint32_t turn = from; turn < now; turn++) {
        if (slots[turn] != NOTHING)
            continue;
        slots[turn] = pass;
        if (peak_of(t, w, placed) <= memory)
            return turn;
        slots[turn] = NOTHING;
    }
    slots[now] = pass;
    return now;
}

// Moves the passes before the first item is through (with W placed) and after the last has begun.
static void reorder(struct table *t, bool placed)
{
    enum { BEFORE, STEADY, AFTER } phase = BEFORE;
    uint32_t *next = bg_alloc_array((size_t)t->workers * PASSES, sizeof *next);
    uint32_t *w_at = bg_alloc_array(t->workers, sizeof *w_at); // the turn of the worker's last W
    uint32_t memory = 0;
    if (placed)
        put_w(t, false);
    for (uint32_t w = 0; w < t->workers; w++)
        memory = later(memory, peak_of(t, w, placed));
    for (uint32_t turn = 0; turn < t->turns; turn++)
        for (uint32_t w = 0; w < t->workers; w++) {
            const uint8_t pass = slots_of(t, w)[turn];
            if (pass == NOTHING)
                continue;
            const uint32_t item = next[w * PASSES + pass]++;
            uint32_t moved = turn;
            if (phase == BEFORE && pass == B1 && w == 0)
                phase = STEADY;
            if (phase == STEADY) {
                if (pass == F0 && item + 1 == t->items)
                    phase = AFTER;
            } else if (phase == AFTER || placed) {
                uint32_t from = pass == W ? backward_turn(t, w, item) + 1 : first_turn(t, w, pass, item);
                if (pass == W && item > 0)
                    from = later(from, w_at[w] + 1);
                moved = move_up(t, w, from, turn, memory, placed);
            }
            if (pass == W)
                w_at[w] = moved;
            else
                *at_of(t, w, pass, item) = moved;
        }
    if (!placed)
        put_w(t, false);
    bg_free(next);
    bg_free(w_at);
}

// Every pass as early as its inputs and the order of its worker allow.
static void squeeze(struct table *t)
{
    uint32_t *next = bg_alloc_array((size_t)t->workers * PASSES, sizeof *next);
    uint32_t *clock = bg_alloc_array(t->workers, sizeof *clock);
    for (uint32_t turn = 0; turn < t->turns; turn++)
        for (uint32_t w = 0; w < t->workers; w++) {
            uint8_t *slots = slots_of(t, w);
            const uint8_t pass = slots[turn];
            if (pass == NOTHING)
                continue;
            const uint32_t item = next[w * PASSES + pass]++;
            uint32_t start = clock[w];
            if (pass < W) {
                start = later(start, first_turn(t, w, pass, item));
                *at_of(t, w, pass, item) = start;
            }
            slots[turn] = NOTHING;
            slots[start] = pass;
            clock[w] = start + 1;
        }
    bg_free(next);
    bg_free(clock);
}

static void emit(const struct table *t, struct plan_list *lists)
{
    for (uint32_t w = 0; w < t->workers; w++) {
        uint32_t next[PASSES] = {0};
        for (uint32_t turn = 0; turn < t->turns; turn++) {
            const uint8_t pass = slots_of(t, w)[turn];
            if (pass == NOTHING)
                continue;
            const bool late = pass == F1 || pass == B0 || pass == W0;
            plan_put(&lists[w],
                     is_forward(pass)    ? PLAN_F
                     : is_backward(pass) ? PLAN_B
                                         : PLAN_W,
                     late ? 2 * t->workers - 1 - w : w, next[pass]++);
        }
    }
}

// block: (workers, F0..B1) turns of item 0.
static void repeat(const struct plan_pipe *pipe, const uint32_t *block, struct plan_list *lists)
{
    struct table t = {.workers = pipe->workers, .items = pipe->items};
    t.turns = 8 * pipe->items + 6 * pipe->workers + 8; // the last block's end, and every W behind
    t.at = bg_alloc_array((size_t)t.workers * W * t.items, sizeof *t.at);
    t.slots = bg_alloc_array(t.workers, t.turns);
    memset(t.slots, NOTHING, (size_t)t.workers * t.turns);
    for (uint32_t w = 0; w < t.workers; w++)
        for (uint32_t pass = F0; pass < W; pass++)
            for (uint32_t i = 0; i < t.items; i++) {
                *at_of(&t, w, pass, i) = block[w * W + pass] + STEADY_TURNS * i;
                slots_of(&t, w)[*at_of(&t, w, pass, i)] = (uint8_t)pass;
            }
    reorder(&t, true);
    squeeze(&t);
    remove_w(&t);
    reorder(&t, false);
    squeeze(&t);
    remove_w(&t);
    put_w(&t, true);
    emit(&t, lists);
    bg_free(t.at);
    bg_free(t.slots);
}

bg_status plan_order_v_half(const struct plan_pipe *pipe, struct bg_error *err, struct plan_list *lists)
{
    (void)err;
    const uint32_t p = pipe->workers, pause = p % 2 ? 0 : 3;
    uint32_t *block = bg_alloc_array((size_t)p * W, sizeof *block);
    for (uint32_t w = 0; w < p; w++) {
        block[w * W + F0] = 2 * w;
        block[w * W + F1] = 3 * p - w - 2;
        block[w * W + B0] = 3 * p + pause + 2 * w - 1;
        block[w * W + B1] = 6 * p + pause - w - 2;
    }
    repeat(pipe, block, lists);
    bg_free(block);
    return BG_OK;
}

bg_status plan_order_v_min(const struct plan_pipe *pipe, struct bg_error *err, struct plan_list *lists)
{
    (void)err;
    const uint32_t p = pipe->workers, pause = p % 3 ? 0 : 2;
    uint32_t *block = bg_alloc_array((size_t)p * W, sizeof *block);
    for (uint32_t w = 0; w < p; w++) {
        block[w * W + F0] = w;
        block[w * W + F1] = 2 * p - w - 1;
        block[w * W + B0] = 2 * p + pause + w;
        block[w * W + B1] = 4 * p + pause - w - 1;
    }
    repeat(pipe, block, lists);
    bg_free(block);
    return BG_OK;
}
