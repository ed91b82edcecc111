// Gradient sums between workers: reduce-scatter and all-gather of node values. A bucket travels in runs of pieces, each
// of which has one owner among the seats of the stage that makes it; runs and owners are the plan's (plan.h: sums).
// Members post their maximal nodes to the owner, the owner evaluates the canonical tree as soon as the nodes cover all
// micro-batches, and the root goes to everybody whose step needs it. What arrives twice is compared, never added.
// A generation may have other runs than the one before: roots that are there are known by the piece.
#include "train/worker_int.h"

#include "base/mem.h"

#include <string.h>

static struct tree_node node_of(uint32_t code)
{
    return (struct tree_node){code >> 26, code & ((1u << 26) - 1)};
}

static uint32_t node_code(struct tree_node node)
{
    return node.level << 26 | node.index;
}

static uint32_t node_leaves(const struct worker *w, struct tree_node node)
{
    return tree_node_end(node, w->job->micro_batches) - tree_node_first(node);
}

uint32_t worker_bucket_index(const struct worker *w, uint32_t bucket)
{
    return bucket == EXECUTOR_SPARSE ? w->job->model->bucket_count : bucket;
}

static bool known_piece(const struct worker *w, uint32_t bucket, uint32_t piece)
{
    return (bucket < w->job->model->bucket_count || bucket == EXECUTOR_SPARSE) &&
           piece < executor_pieces(w->ex, bucket);
}

static uint32_t stage_of(const struct worker *w, uint32_t bucket)
{
    uint32_t unit = bucket == EXECUTOR_SPARSE ? 0 : w->job->model->buckets[bucket].unit, stage = 0;
    while (w->plan->stages[stage].unit_end <= unit)
        stage++;
    return stage;
}

// ---- Runs ----
struct run {
    uint32_t bucket, number, first, end; // pieces
    size_t bytes;                        // of a node's value; rows of an embedding vary
    struct worker_sum *sum;
};

static size_t bytes_between(const struct worker *w, uint32_t bucket, uint32_t first, uint32_t end)
{
    if (bucket == EXECUTOR_SPARSE)
        return 0;
    const uint64_t floats = w->job->model->buckets[bucket].floats, from = (uint64_t)first * EXECUTOR_PIECE;
    const uint64_t to = (uint64_t)end * EXECUTOR_PIECE;
    return (size_t)((to < floats ? to : floats) - from) * sizeof(float);
}

static struct run run_at(struct worker *w, uint32_t bucket, uint32_t number)
{
    struct run r = {.bucket = bucket, .number = number};
    const uint32_t pieces = executor_pieces(w->ex, bucket);
    plan_run_pieces(pieces, plan_sum_runs(w->plan, stage_of(w, bucket), pieces), number, &r.first, &r.end);
    r.bytes = bytes_between(w, bucket, r.first, r.end);
    r.sum = &w->sums[w->piece_first[worker_bucket_index(w, bucket)] + r.first];
    return r;
}

static uint32_t run_number(const struct worker *w, uint32_t bucket, uint32_t piece)
{
    const uint32_t pieces = executor_pieces(w->ex, bucket);
    return plan_run_of(pieces, plan_sum_runs(w->plan, stage_of(w, bucket), pieces), piece);
}

uint32_t worker_bucket_owner(const struct worker *w, uint32_t bucket, uint32_t piece)
{
    const uint32_t turn = bucket == EXECUTOR_SPARSE ? 0 : bucket;
    return plan_run_owner(w->plan, stage_of(w, bucket), turn, run_number(w, bucket, piece));
}

// Its root is there, every piece of it.
static bool run_held(const struct worker *w, const struct run *r)
{
    uint32_t piece = r->first;
    while (piece < r->end && executor_root_held(w->ex, r->bucket, piece))
        piece++;
    return piece == r->end;
}

static bg_status send_root(struct worker *w, uint32_t bucket, uint32_t piece, const void *values, size_t bytes,
                           struct bg_error *err)
{
    struct wire_frame frame = worker_head(w, WIRE_ROOT);
    frame.a = bucket;
    frame.b = piece;
    bg_status status = BG_OK;
    for (uint32_t p = 0; p < w->peer_count && !status; p++)
        if (p != w->self &&
            executor_needs(w->job->model, w->peer_holds + (size_t)p * w->job->model->unit_count, bucket))
            status = worker_post(w, p, &frame, values, bytes, err);
    return status;
}

static void release_parts(struct worker *w, const struct run *r)
{
    for (uint32_t i = r->sum->parts; i; i = w->parts[i - 1].next) {
        if (w->parts[i - 1].readable)
            comm_release(w->comm, &w->parts[i - 1].event);
        w->parts[i - 1].readable = false; // its check stays: a duplicate is compared with it
    }
}

// ---- Folding ----
struct parts { // of a run, that cover all micro-batches
    struct executor_part of[2 * TREE_SLOTS_MAX];
    size_t count;
};

// Our own nodes, and those that came; *whole: nothing is missing.
static bg_status collect(struct worker *w, const struct run *r, struct bg_error *err, struct parts *parts, bool *whole)
{
    struct tree_node nodes[TREE_SLOTS_MAX];
    const uint32_t stage = w->local[stage_of(w, r->bucket)];
    const size_t count = stage == UINT32_MAX ? 0 : executor_nodes(w->ex, stage, nodes);
    uint32_t leaves = r->sum->leaves;
    parts->count = 0;
    for (size_t i = 0; i < count; i++) {
        leaves += node_leaves(w, nodes[i]);
        parts->of[parts->count++] = executor_part(w->ex, stage, r->bucket, r->first, nodes[i]);
    }
    *whole = leaves >= w->job->micro_batches;
    for (uint32_t i = r->sum->parts; i && *whole; i = w->parts[i - 1].next) {
        const struct worker_part *part = &w->parts[i - 1];
        if (parts->count == sizeof parts->of / sizeof *parts->of)
            return bg_fail(err, BG_INTERNAL, "bucket %u piece %u: more than %zu partial sums", r->bucket, r->first,
                           parts->count);
        parts->of[parts->count++] =
            (struct executor_part){part->node, part->event.payload, (size_t)part->event.frame.bytes};
    }
    return BG_OK;
}

// The owner's part of a run: once every leaf is covered by our own nodes and the parts that came.
static bg_status reduce(struct worker *w, const struct run *r, struct bg_error *err)
{
    struct parts whole;
    bool complete = false;
    if (run_held(w, r) || !r->sum->posted)
        return BG_OK;
    bg_status status = collect(w, r, err, &whole, &complete);
    if (status || !complete)
        return status;
    env_point(w->env, "before-add");
    struct executor_part root = {0};
    size_t bytes = 0;
    for (uint32_t piece = r->first; piece < r->end && !status; piece++) {
        struct executor_part parts[2 * TREE_SLOTS_MAX];
        for (size_t i = 0; i < whole.count; i++) {
            parts[i] = whole.of[i];
            if (r->bucket == EXECUTOR_SPARSE)
                continue;
            parts[i].values += (size_t)(piece - r->first) * EXECUTOR_PIECE;
            parts[i].bytes = bytes_between(w, r->bucket, piece, piece + 1);
        }
        status = executor_reduce(w->ex, r->bucket, piece, parts, whole.count, err, &root);
        bytes += root.bytes;
    }
    env_point(w->env, "after-add");
    release_parts(w, r);
    if (status)
        return status;
    root = executor_root_part(w->ex, r->bucket, r->first);
    return send_root(w, r->bucket, r->first, root.values, bytes, err);
}

static bg_status post_run(struct worker *w, const struct run *r, struct bg_error *err)
{
    const uint32_t stage = w->local[stage_of(w, r->bucket)], owner = worker_bucket_owner(w, r->bucket, r->first);
    struct tree_node nodes[TREE_SLOTS_MAX];
    bg_status status = BG_OK;
    if (r->sum->posted)
        return BG_OK;
    r->sum->posted = true;
    if (owner == w->self)
        return reduce(w, r, err);
    const size_t count = executor_nodes(w->ex, stage, nodes);
    for (size_t i = 0; i < count && !status; i++) {
        const struct executor_part part = executor_part(w->ex, stage, r->bucket, r->first, nodes[i]);
        struct wire_frame frame = worker_head(w, WIRE_PART);
        frame.a = r->bucket;
        frame.b = r->first;
        frame.c = node_code(nodes[i]);
        status = worker_post(w, owner, &frame, part.values, r->bucket == EXECUTOR_SPARSE ? part.bytes : r->bytes, err);
    }
    return status;
}

bg_status worker_post_bucket(struct worker *w, uint32_t bucket, uint32_t chunk, struct bg_error *err)
{
    const uint32_t stage = stage_of(w, bucket), runs = plan_sum_runs(w->plan, stage, executor_pieces(w->ex, bucket));
    bg_status status = BG_OK;
    for (uint32_t number = 0; number < runs && w->local[stage] != UINT32_MAX && !status; number++) {
        const struct run r = run_at(w, bucket, number);
        if (chunk == WORKER_ALL_CHUNKS || plan_run_in_chunk(w->plan, stage, number, chunk))
            status = post_run(w, &r, err);
    }
    return status;
}

static bg_status disagree(struct worker *w, const struct comm_event *event, struct bg_error *err)
{
    char text[160];
    wire_frame_describe(&event->frame, text, sizeof text);
    return bg_fail(err, BG_CORRUPT,
                   "%s differs from the same value that is here already: one of the two was computed or stored wrongly "
                   "(silent corruption); check the memory of that machine and of member %u",
                   text, w->member);
}

static uint32_t new_part(struct worker *w)
{
    if (w->part_count == w->part_capacity) {
        w->part_capacity = w->part_capacity ? 2 * w->part_capacity : 256;
        w->parts = bg_realloc_array(w->parts, w->part_capacity, sizeof *w->parts);
    }
    return ++w->part_count;
}

bg_status worker_take_part(struct worker *w, struct comm_event *event, struct bg_error *err)
{
    const struct wire_frame *f = &event->frame;
    struct tree_node node = node_of(f->c);
    uint32_t leaves = w->job->micro_batches;
    if (!known_piece(w, f->a, f->b) || worker_bucket_owner(w, f->a, f->b) != w->self || node.level > 31 ||
        tree_node_first(node) >= leaves) {
        w->frames_refused++;
        comm_release(w->comm, event);
        return BG_OK;
    }
    const struct run r = run_at(w, f->a, run_number(w, f->a, f->b));
    if (r.first != f->b || (f->a != EXECUTOR_SPARSE && f->bytes != r.bytes)) {
        bg_fail(err, BG_CORRUPT, "bucket %u, piece %u: a part of another size", f->a, f->b);
        comm_release(w->comm, event);
        return BG_CORRUPT;
    }
    for (uint32_t i = r.sum->parts; i; i = w->parts[i - 1].next) {
        if (w->parts[i - 1].node.level != node.level || w->parts[i - 1].node.index != node.index)
            continue;
        // Behind the last id a block of rows may hold anything.
        bool same = f->a == EXECUTOR_SPARSE || w->parts[i - 1].check == f->check;
        bg_status status = same ? BG_OK : disagree(w, event, err);
        w->duplicates++;
        comm_release(w->comm, event);
        return status;
    }
    uint32_t index = new_part(w);
    w->parts[index - 1] = (struct worker_part){*event, node, f->check, true, r.sum->parts};
    r.sum->parts = index;
    r.sum->leaves += node_leaves(w, node);
    if (run_held(w, &r))
        release_parts(w, &r);
    return reduce(w, &r, err);
}

// Pieces from f->b on, as many as the bytes are; or the rows.
static bg_status take_pieces(struct worker *w, const struct comm_event *event, struct bg_error *err)
{
    const struct wire_frame *f = &event->frame;
    const uint8_t *at = event->payload;
    size_t left = (size_t)f->bytes;
    bg_status status = BG_OK;
    if (f->a == EXECUTOR_SPARSE)
        return executor_set_root(w->ex, f->a, f->b, at, left, err); // or compares
    for (uint32_t piece = f->b; (left > 0 || piece == f->b) && !status; piece++) {
        const size_t bytes = piece < executor_pieces(w->ex, f->a) ? bytes_between(w, f->a, piece, piece + 1) : 0;
        if (bytes == 0 || bytes > left)
            return bg_fail(err, BG_CORRUPT, "bucket %u, piece %u: a root of another size", f->a, piece);
        w->duplicates += executor_root_held(w->ex, f->a, piece);
        status = executor_set_root(w->ex, f->a, piece, at, bytes, err);
        at += bytes;
        left -= bytes;
    }
    return status;
}

bg_status worker_take_root(struct worker *w, struct comm_event *event, struct bg_error *err)
{
    const struct wire_frame *f = &event->frame;
    if (!known_piece(w, f->a, f->b) || !executor_needs(w->job->model, w->holds, f->a)) {
        w->frames_refused++;
        comm_release(w->comm, event);
        return BG_OK;
    }
    w->duplicates += f->a == EXECUTOR_SPARSE && executor_root_held(w->ex, f->a, f->b);
    bg_status status = take_pieces(w, event, err);
    if (status) {
        bg_fail_prefix(err, "member %u", event->peer);
    } else {
        const struct run r = run_at(w, f->a, run_number(w, f->a, f->b));
        if (run_held(w, &r)) // of a run that was folded elsewhere there may be parts here, after a change of owners
            release_parts(w, &r);
    }
    comm_release(w->comm, event);
    return status;
}

// A generation that begins in mid-step: whoever lacks a root that we hold gets it.
bg_status worker_resend_roots(struct worker *w, struct bg_error *err)
{
    bg_status status = BG_OK;
    for (uint32_t index = 0; index <= w->job->model->bucket_count; index++) {
        uint32_t bucket = index == w->job->model->bucket_count ? EXECUTOR_SPARSE : index;
        for (uint32_t piece = 0; piece < executor_pieces(w->ex, bucket) && !status; piece++) {
            if (!executor_root_held(w->ex, bucket, piece))
                continue;
            struct executor_part root = executor_root_part(w->ex, bucket, piece);
            status = send_root(w, bucket, piece, root.values, root.bytes, err);
        }
    }
    return status;
}

void worker_forget_parts(struct worker *w)
{
    for (uint32_t i = 0; i < w->part_count; i++)
        if (w->parts[i].readable)
            comm_release(w->comm, &w->parts[i].event);
    w->part_count = 0;
    uint32_t total = w->piece_first[w->job->model->bucket_count + 1];
    memset(w->sums, 0, total * sizeof *w->sums);
}
