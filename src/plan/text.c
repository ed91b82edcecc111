// A plan as text and back. One record a line in one order; what is written never varies, what is read may have blank
// lines, comments and more spaces. Reading allocates as it goes, so that memory is bounded by the size of the text.
#include "plan/plan.h"

#include "base/mem.h"
#include "base/str.h"
#include "plan/plan_int.h"

#include <stdio.h>
#include <string.h>

// ---- Writing ----
// numbered: with its slice, or chunk.
static void op_text(const struct plan_op *op, bool numbered, char text[PLAN_OP_TEXT])
{
    const char letter = op->flags & PLAN_GRAD ? 'B' : 'F',
               *stop = op->flags & (PLAN_RECOMPUTE | PLAN_OFFLOAD | PLAN_LAST) ? "." : "";
    const char *r = op->flags & PLAN_RECOMPUTE ? "r" : "", *o = op->flags & PLAN_OFFLOAD ? "o" : "",
               *l = op->flags & PLAN_LAST ? "l" : "";
    char slice[8] = "";
    if (numbered && op->kind != PLAN_W)
        snprintf(slice, sizeof slice, "/%u", op->slice);
    switch (op->kind) {
    case PLAN_F:
    case PLAN_B:
    case PLAN_W: {
        const char *name = op->kind == PLAN_F ? "F" : op->kind == PLAN_W ? "W" : op->flags & PLAN_FUSED ? "BW" : "B";
        snprintf(text, PLAN_OP_TEXT, "%u%s%u%s%s%s%s%s", op->stage, name, op->item, slice, stop, r, o, l);
        return;
    }
    case PLAN_SEND:
        snprintf(text, PLAN_OP_TEXT, "%uSEND_%c%u%s>%u", op->stage, letter, op->item, slice, op->peer);
        return;
    case PLAN_RECV:
        snprintf(text, PLAN_OP_TEXT, "%uRECV_%c%u%s<%u", op->stage, letter, op->item, slice, op->peer);
        return;
    case PLAN_COLL: {
        const char *what = op->flags & PLAN_REDUCE ? "reduce" : op->flags & PLAN_UNSHARD ? "unshard" : "reshard";
        snprintf(text, PLAN_OP_TEXT, "%uCOLL.%s%s", op->stage, what, slice);
        return;
    }
    case PLAN_STEP:
        snprintf(text, PLAN_OP_TEXT, "STEP");
        return;
    case PLAN_MOVE:
        snprintf(text, PLAN_OP_TEXT, "MOVE%u%c%u", op->item, op->flags & PLAN_OUT ? '>' : '<', op->peer);
        return;
    default:
        snprintf(text, PLAN_OP_TEXT, "-");
    }
}

void plan_op_text(const struct plan_op *op, char text[PLAN_OP_TEXT])
{
    op_text(op, op->slice > 0, text);
}

void plan_op_name(const struct plan *plan, const struct plan_op *op, char text[PLAN_OP_TEXT])
{
    if (op->kind == PLAN_COLL)
        op_text(op,
                op->slice > 0 || (op->flags & PLAN_REDUCE && op->stage < plan->stage_count && // maybe none
                                  plan_sum_chunks(plan, op->stage) > 1),
                text);
    else
        op_text(op, plan_op_slices(plan) > 1, text);
}

static void add_sums(const struct plan *plan, struct bg_str *text)
{
    for (uint32_t s = 0; s < plan->stage_count && plan->sums; s++) {
        const struct plan_sum *sum = &plan->sums[s];
        if (sum->owner)
            bg_str_addf(text, "sums %u %u %u\n", s, sum->chunks, sum->owner - 1);
        else if (sum->chunks)
            bg_str_addf(text, "sums %u %u -\n", s, sum->chunks);
    }
}

char *plan_format(const struct plan *plan)
{
    struct bg_str text = {0};
    bg_str_addf(&text, "plan 1 units %u micro_batches %u workers %u", plan->units, plan->micro_batches, plan->workers);
    if (plan->slices > 1)
        bg_str_addf(&text, " slices %u", plan->slices);
    bg_str_add(&text, plan->rest ? " rest\n" : "\n");
    for (uint32_t s = 0; s < plan->stage_count; s++)
        bg_str_addf(&text, "stage %u %u %u\n", s, plan->stages[s].unit_first, plan->stages[s].unit_end);
    for (uint32_t i = 0; i < plan->item_count; i++)
        bg_str_addf(&text, "item %u %u %u\n", i, plan->items[i].first, plan->items[i].end);
    for (uint32_t k = 0; k < plan->seat_count; k++)
        bg_str_addf(&text, "seat %u %u %u\n", plan->seats[k].worker, plan->seats[k].stage, plan->seats[k].replica);
    for (uint32_t k = 0; k < plan->follow_count; k++)
        bg_str_addf(&text, "follow %u %u %u\n", plan->follows[k].worker, plan->follows[k].unit_first,
                    plan->follows[k].unit_end);
    add_sums(plan, &text);
    for (uint32_t s = 0; s < plan->stage_count; s++)
        for (uint32_t i = 0; i < plan->item_count; i++) {
            uint32_t worker = plan->route[plan_cell(plan, s, i)];
            if (worker == PLAN_NOBODY)
                bg_str_addf(&text, "mbmap %u %u -\n", s, i);
            else
                bg_str_addf(&text, "mbmap %u %u %u\n", s, i, worker);
        }
    for (uint32_t w = 0; w < plan->workers; w++) {
        bg_str_addf(&text, "list %u:", w);
        for (size_t k = 0; k < plan->lists[w].count; k++) {
            char op[PLAN_OP_TEXT];
            plan_op_name(plan, &plan->lists[w].ops[k], op);
            bg_str_add(&text, " ");
            bg_str_add(&text, op);
        }
        bg_str_add(&text, "\n");
    }
    return bg_str_take(&text);
}

// ---- Reading ----
struct reader {
    const char *at, *end; // what is left of the text
    const char *word;     // the word at hand, word_size bytes; size 0 at the end of a line
    size_t word_size, line;
    struct bg_error *err;
    struct plan plan;
    uint32_t stages_room, items_room, seats_room, follows_room, sums_next, lists_read;
    size_t route_count, route_room;
};

static bg_status expected(const struct reader *r, const char *what)
{
    int size = r->word_size < 60 ? (int)r->word_size : 60;
    return bg_fail(r->err, BG_FORMAT, "plan, line %zu: found %s%.*s%s, expected %s", r->line, size ? "\"" : "", size,
                   size ? r->word : "", size ? "\"" : "the end of the line", what);
}

// The next word of this line.
static void next_word(struct reader *r)
{
    while (r->at < r->end && (*r->at == ' ' || *r->at == '\t' || *r->at == '\r'))
        r->at++;
    r->word = r->at;
    while (r->at < r->end && *r->at != ' ' && *r->at != '\t' && *r->at != '\r' && *r->at != '\n')
        r->at++;
    r->word_size = (size_t)(r->at - r->word);
}

// The first word of the next line that has one; false at the end of the text.
static bool next_line(struct reader *r)
{
    while (r->at < r->end) {
        r->line++;
        next_word(r);
        if (r->word_size && *r->word != '#')
            return true;
        while (r->at < r->end && *r->at != '\n')
            r->at++;
        r->at += r->at < r->end;
    }
    r->word_size = 0;
    return false;
}

static bg_status end_line(struct reader *r)
{
    next_word(r);
    if (r->word_size)
        return expected(r, "the end of the line");
    r->at += r->at < r->end;
    return BG_OK;
}

static bool word_is(const struct reader *r, const char *text)
{
    return r->word_size == strlen(text) && memcmp(r->word, text, r->word_size) == 0;
}

// Decimal digits at *at, less than PLAN_NOBODY; moves *at behind them.
static bool digits(const char **at, const char *end, uint32_t *value)
{
    uint64_t sum = 0;
    const char *p = *at;
    while (p < end && *p >= '0' && *p <= '9' && sum < PLAN_NOBODY)
        sum = sum * 10 + (uint64_t)(*p++ - '0');
    if (p == *at || sum >= PLAN_NOBODY)
        return false;
    *at = p;
    *value = (uint32_t)sum;
    return true;
}

static bg_status read_number(struct reader *r, const char *what, uint32_t *value)
{
    next_word(r);
    const char *at = r->word, *end = r->word + r->word_size;
    if (!digits(&at, end, value) || at != end)
        return expected(r, what);
    return BG_OK;
}

// As many numbers as values; `what` names the whole line.
static bg_status read_numbers(struct reader *r, const char *what, uint32_t *values, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        bg_status status = read_number(r, what, &values[i]);
        if (status)
            return status;
    }
    return end_line(r);
}

static void *grow(void *memory, uint32_t count, uint32_t *room, size_t bytes_each)
{
    if (count < *room)
        return memory;
    *room = *room ? 2 * *room : 4;
    return bg_realloc_array(memory, *room, bytes_each);
}

// Moves *at behind `text` if that comes next.
static bool skip(const char **at, const char *end, const char *text)
{
    size_t size = strlen(text);
    if ((size_t)(end - *at) < size || memcmp(*at, text, size) != 0)
        return false;
    *at += size;
    return true;
}

static bool parse_move(const char *at, const char *end, struct plan_op *op)
{
    op->kind = PLAN_MOVE;
    if (!digits(&at, end, &op->item))
        return false;
    if (skip(&at, end, ">"))
        op->flags = PLAN_OUT;
    else if (!skip(&at, end, "<"))
        return false;
    return digits(&at, end, &op->peer) && at == end;
}

// "/1": there if and only if there are several slices (or chunks).
static bool parse_slice(const char **at, const char *end, uint32_t slices, struct plan_op *op)
{
    uint32_t slice = 0;
    if (slices <= 1)
        return true;
    if (!skip(at, end, "/") || !digits(at, end, &slice) || slice >= slices)
        return false;
    op->slice = (uint16_t)slice;
    return true;
}

static bool parse_message(const char *at, const char *end, uint32_t slices, struct plan_op *op)
{
    if (skip(&at, end, "B"))
        op->flags = PLAN_GRAD;
    else if (!skip(&at, end, "F"))
        return false;
    return digits(&at, end, &op->item) && parse_slice(&at, end, slices, op) &&
           skip(&at, end, op->kind == PLAN_SEND ? ">" : "<") && digits(&at, end, &op->peer) && at == end;
}

static bool parse_coll(const char *at, const char *end, const struct plan *plan, struct plan_op *op)
{
    op->kind = PLAN_COLL;
    op->flags = skip(&at, end, "reduce")    ? PLAN_REDUCE
                : skip(&at, end, "unshard") ? PLAN_UNSHARD
                : skip(&at, end, "reshard") ? PLAN_RESHARD
                                            : 0;
    if (op->flags == PLAN_REDUCE && op->stage < plan->stage_count &&
        !parse_slice(&at, end, plan_sum_chunks(plan, op->stage), op))
        return false;
    return op->flags && at == end;
}

static bool parse_compute(const char *at, const char *end, uint32_t slices, struct plan_op *op)
{
    if (skip(&at, end, "F"))
        op->kind = PLAN_F;
    else if (skip(&at, end, "W"))
        op->kind = PLAN_W;
    else if (skip(&at, end, "B"))
        op->kind = PLAN_B;
    else
        return false;
    if (op->kind == PLAN_B && skip(&at, end, "W"))
        op->flags |= PLAN_FUSED;
    if (!digits(&at, end, &op->item) || !parse_slice(&at, end, op->kind == PLAN_W ? 1 : slices, op))
        return false;
    if (skip(&at, end, ".")) {
        if (at == end)
            return false;
        if (skip(&at, end, "r"))
            op->flags |= PLAN_RECOMPUTE;
        if (skip(&at, end, "o"))
            op->flags |= PLAN_OFFLOAD;
        if (skip(&at, end, "l"))
            op->flags |= PLAN_LAST;
    }
    return at == end;
}

static bool parse_op(const char *at, const char *end, const struct plan *plan, struct plan_op *op)
{
    const uint32_t slices = plan_op_slices(plan);
    uint32_t stage = 0;
    *op = (struct plan_op){.kind = PLAN_STEP};
    if (skip(&at, end, "STEP"))
        return at == end;
    if (skip(&at, end, "MOVE"))
        return parse_move(at, end, op);
    if (!digits(&at, end, &stage) || stage >= PLAN_STAGES_MAX)
        return false;
    op->stage = (uint16_t)stage;
    op->kind = PLAN_SEND;
    if (skip(&at, end, "SEND_"))
        return parse_message(at, end, slices, op);
    op->kind = PLAN_RECV;
    if (skip(&at, end, "RECV_"))
        return parse_message(at, end, slices, op);
    if (skip(&at, end, "COLL."))
        return parse_coll(at, end, plan, op);
    return parse_compute(at, end, slices, op);
}

// "list w: op op ..." after its first word.
static bg_status read_list(struct reader *r)
{
    struct plan *plan = &r->plan;
    uint32_t worker = 0;
    next_word(r);
    const char *at = r->word, *end = r->word + r->word_size;
    if (!digits(&at, end, &worker) || !skip(&at, end, ":") || at != end || worker != r->lists_read ||
        worker >= plan->workers)
        return expected(r, "the next worker and a colon");
    r->lists_read++;
    for (next_word(r); r->word_size; next_word(r)) {
        struct plan_op op;
        const uint32_t slices = plan_op_slices(plan);
        if (!parse_op(r->word, r->word + r->word_size, plan, &op))
            return expected(r, slices > 1 ? "an op with its slice such as 0F3/0, 0SEND_F3/0>1, 0COLL.reduce or STEP"
                                          : "an op such as 0F3, 0SEND_F3>1, 0COLL.reduce or STEP");
        plan_list_add(&plan->lists[worker], op);
    }
    return end_line(r);
}

static bg_status read_route(struct reader *r)
{
    struct plan *plan = &r->plan;
    uint32_t stage = 0, item = 0, worker = PLAN_NOBODY;
    bg_status status = read_number(r, "the stage of a route", &stage);
    if (!status)
        status = read_number(r, "the item of a route", &item);
    if (status)
        return status;
    if (plan->item_count == 0 || stage != r->route_count / plan->item_count ||
        item != r->route_count % plan->item_count || stage >= plan->stage_count)
        return expected(r, "the routes of all stages and items in order");
    next_word(r);
    const char *at = r->word, *end = r->word + r->word_size;
    if (!word_is(r, "-") && (!digits(&at, end, &worker) || at != end || worker >= plan->workers))
        return expected(r, "the worker of a route, or -");
    if (r->route_count == r->route_room) {
        r->route_room = r->route_room ? 2 * r->route_room : 16;
        plan->route = bg_realloc_array(plan->route, r->route_room, sizeof *plan->route);
    }
    plan->route[r->route_count++] = worker;
    return end_line(r);
}

// stage, item, seat, follow: three numbers each.
static bg_status read_record(struct reader *r, size_t kind)
{
    struct plan *plan = &r->plan;
    uint32_t n[3];
    bg_status status = read_numbers(r, "three numbers", n, 3);
    if (status)
        return status;
    if (kind == 1) {
        if (n[0] != plan->stage_count || n[0] >= PLAN_STAGES_MAX)
            return bg_fail(r->err, BG_FORMAT, "plan, line %zu: found stage %u, expected %u", r->line, n[0],
                           plan->stage_count);
        plan->stages = grow(plan->stages, plan->stage_count, &r->stages_room, sizeof *plan->stages);
        plan->stages[plan->stage_count++] = (struct plan_stage){n[1], n[2]};
    } else if (kind == 2) {
        if (n[0] != plan->item_count)
            return bg_fail(r->err, BG_FORMAT, "plan, line %zu: found item %u, expected %u", r->line, n[0],
                           plan->item_count);
        plan->items = grow(plan->items, plan->item_count, &r->items_room, sizeof *plan->items);
        plan->items[plan->item_count++] = (struct plan_item){n[1], n[2]};
    } else if (kind == 3) {
        plan->seats = grow(plan->seats, plan->seat_count, &r->seats_room, sizeof *plan->seats);
        plan->seats[plan->seat_count++] = (struct plan_seat){n[0], n[1], n[2]};
    } else {
        plan->follows = grow(plan->follows, plan->follow_count, &r->follows_room, sizeof *plan->follows);
        plan->follows[plan->follow_count++] = (struct plan_follow){n[0], n[1], n[2]};
    }
    return BG_OK;
}

static bg_status read_sums(struct reader *r)
{
    struct plan *plan = &r->plan;
    uint32_t stage = 0, chunks = 0, owner = 0;
    bg_status status = read_number(r, "the stage of sums", &stage);
    if (!status && (stage >= plan->stage_count || stage < r->sums_next))
        return expected(r, "stages that there are, ascending");
    if (!status)
        status = read_number(r, "the chunks of a stage's sums", &chunks);
    if (status)
        return status;
    next_word(r);
    const char *at = r->word, *end = r->word + r->word_size;
    const bool turns = word_is(r, "-");
    if (!turns && (!digits(&at, end, &owner) || at != end || owner >= PLAN_WORKERS_MAX))
        return expected(r, "the replica that folds the sums, or -");
    if (!plan->sums)
        plan->sums = bg_alloc_array(plan->stage_count, sizeof *plan->sums);
    r->sums_next = stage + 1;
    plan->sums[stage] = (struct plan_sum){chunks, turns ? 0 : owner + 1};
    return end_line(r);
}

static bg_status read_head(struct reader *r)
{
    static const char what[] = "\"plan 1 units U micro_batches M workers W\"";
    static const char *const names[] = {"1", "units", "micro_batches", "workers"};
    uint32_t *values[] = {NULL, &r->plan.units, &r->plan.micro_batches, &r->plan.workers};
    if (!next_line(r) || !word_is(r, "plan"))
        return expected(r, what);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        next_word(r);
        if (!word_is(r, names[i]))
            return expected(r, what);
        bg_status status = values[i] ? read_number(r, what, values[i]) : BG_OK;
        if (status)
            return status;
    }
    if (r->plan.workers == 0 || r->plan.workers > PLAN_WORKERS_MAX) {
        r->plan.workers = 0;
        return expected(r, "1 to 1024 workers");
    }
    plan_reset_lists(&r->plan);
    next_word(r);
    if (word_is(r, "slices")) {
        bg_status status = read_number(r, "the number of slices", &r->plan.slices);
        if (status || r->plan.slices < 2 || r->plan.slices > PLAN_SLICES_MAX)
            return status ? status : expected(r, "2 to 64 slices");
        next_word(r);
    }
    r->plan.rest = word_is(r, "rest");
    if (r->word_size && !r->plan.rest)
        return expected(r, "rest, slices S (before rest) or the end of the line");
    return end_line(r);
}

static bg_status read_plan(struct reader *r)
{
    static const char *const kinds[] = {"plan", "stage", "item", "seat", "follow", "sums", "mbmap", "list"};
    enum { SUMS = 5, ROUTE, LIST };
    bg_status status = read_head(r);
    size_t kind = 1;
    while (!status && next_line(r)) {
        while (kind <= LIST && !word_is(r, kinds[kind]))
            kind++;
        if (kind > LIST)
            return expected(r, "stage, item, seat, follow, sums, mbmap and list lines, in this order");
        status = kind == LIST    ? read_list(r)
                 : kind == ROUTE ? read_route(r)
                 : kind == SUMS  ? read_sums(r)
                                 : read_record(r, kind);
    }
    if (!status && (r->lists_read != r->plan.workers || r->route_count != plan_cells(&r->plan)))
        return bg_fail(r->err, BG_FORMAT, "plan: the text ends after %zu routes of %zu and %u lists of %u",
                       r->route_count, plan_cells(&r->plan), r->lists_read, r->plan.workers);
    return status;
}

bg_status plan_parse(const char *text, size_t size, struct bg_error *err, struct plan *plan)
{
    struct reader reader = {.at = text, .end = text + size, .err = err};
    bg_status status = read_plan(&reader);
    plan_drop_sums(&reader.plan);
    if (!status)
        status = plan_validate(&reader.plan, err);
    if (status)
        plan_fini(&reader.plan);
    else
        *plan = reader.plan;
    return status;
}
