// Gradient sums between workers: reduce-scatter and all-gather of node values. Every piece of a bucket has one owner
// among the seats of the stage that makes it. Members post their maximal nodes to the owner, the owner evaluates the
// canonical tree as soon as the nodes cover all micro-batches, and the root goes to everybody whose step needs it.
// What arrives twice is compared, never added.
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

static struct worker_piece *piece_of(struct worker *w, uint32_t bucket, uint32_t piece)
{
    return &w->pieces[w->piece_first[worker_bucket_index(w, bucket)] + piece];
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

uint32_t worker_bucket_owner(const struct worker *w, uint32_t bucket, uint32_t piece)
{
    uint32_t stage = stage_of(w, bucket), count = 0, seats[PLAN_WORKERS_MAX];
    for (uint32_t s = 0; s < w->plan->seat_count; s++)
        if (w->plan->seats[s].stage == stage && count < PLAN_WORKERS_MAX)
            seats[count++] = w->plan->seats[s].worker;
    return count ? seats[bucket == EXECUTOR_SPARSE ? 0 : (bucket + piece) % count] : PLAN_NOBODY;
}

static bg_status send_root(struct worker *w, uint32_t bucket, uint32_t piece, const struct executor_part *root,
                           struct bg_error *err)
{
    struct wire_frame frame = worker_head(w, WIRE_ROOT);
    frame.a = bucket;
    frame.b = piece;
    bg_status status = BG_OK;
    for (uint32_t p = 0; p < w->peer_count && !status; p++)
        if (p != w->self &&
            executor_needs(w->job->model, w->peer_holds + (size_t)p * w->job->model->unit_count, bucket))
            status = worker_post(w, p, &frame, root->values, root->bytes, err);
    return status;
}

static void release_parts(struct worker *w, struct worker_piece *slot)
{
    for (uint32_t i = slot->parts; i; i = w->parts[i - 1].next) {
        if (w->parts[i - 1].readable)
            comm_release(w->comm, &w->parts[i - 1].event);
        w->parts[i - 1].readable = false; // its check stays: a duplicate is compared with it
    }
}

// The owner's part of a piece: once every leaf is covered by our own nodes and the parts that came.
static bg_status reduce(struct worker *w, uint32_t bucket, uint32_t piece, struct bg_error *err)
{
    struct worker_piece *slot = piece_of(w, bucket, piece);
    if (executor_root_held(w->ex, bucket, piece) || !w->posted[worker_bucket_index(w, bucket)])
        return BG_OK;
    struct executor_part parts[2 * TREE_SLOTS_MAX];
    struct tree_node nodes[TREE_SLOTS_MAX];
    uint32_t stage = w->local[stage_of(w, bucket)], leaves = slot->leaves;
    size_t count = stage == UINT32_MAX ? 0 : executor_nodes(w->ex, stage, nodes);
    for (size_t i = 0; i < count; i++) {
        leaves += node_leaves(w, nodes[i]);
        parts[i] = executor_part(w->ex, stage, bucket, piece, nodes[i]);
    }
    if (leaves < w->job->micro_batches)
        return BG_OK;
    for (uint32_t i = slot->parts; i; i = w->parts[i - 1].next) {
        struct worker_part *part = &w->parts[i - 1];
        if (count == sizeof parts / sizeof *parts)
            return bg_fail(err, BG_INTERNAL, "bucket %u piece %u: more than %zu partial sums", bucket, piece, count);
        parts[count++] = (struct executor_part){part->node, part->event.payload, (size_t)part->event.frame.bytes};
    }
    env_point(w->env, "before-add");
    struct executor_part root;
    bg_status status = executor_reduce(w->ex, bucket, piece, parts, count, err, &root);
    env_point(w->env, "after-add");
    release_parts(w, slot);
    return status ? status : send_root(w, bucket, piece, &root, err);
}

bg_status worker_post_bucket(struct worker *w, uint32_t bucket, struct bg_error *err)
{
    uint32_t index = worker_bucket_index(w, bucket), stage = w->local[stage_of(w, bucket)];
    if (w->posted[index] || stage == UINT32_MAX)
        return BG_OK;
    w->posted[index] = 1;
    struct tree_node nodes[TREE_SLOTS_MAX];
    size_t count = executor_nodes(w->ex, stage, nodes);
    bg_status status = BG_OK;
    for (uint32_t piece = 0; piece < executor_pieces(w->ex, bucket) && !status; piece++) {
        uint32_t owner = worker_bucket_owner(w, bucket, piece);
        if (owner == w->self)
            status = reduce(w, bucket, piece, err);
        // A root that we hold goes out by itself; nobody needs the parts then.
        for (size_t i = 0; owner != w->self && i < count && !status; i++) {
            struct executor_part part = executor_part(w->ex, stage, bucket, piece, nodes[i]);
            struct wire_frame frame = worker_head(w, WIRE_PART);
            frame.a = bucket;
            frame.b = piece;
            frame.c = node_code(nodes[i]);
            status = worker_post(w, owner, &frame, part.values, part.bytes, err);
        }
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
    struct worker_piece *slot = piece_of(w, f->a, f->b);
    for (uint32_t i = slot->parts; i; i = w->parts[i - 1].next) {
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
    w->parts[index - 1] = (struct worker_part){*event, node, f->check, true, slot->parts};
    slot->parts = index;
    slot->leaves += node_leaves(w, node);
    if (executor_root_held(w->ex, f->a, f->b))
        release_parts(w, slot);
    return reduce(w, f->a, f->b, err);
}

bg_status worker_take_root(struct worker *w, struct comm_event *event, struct bg_error *err)
{
    const struct wire_frame *f = &event->frame;
    if (!known_piece(w, f->a, f->b) || !executor_needs(w->job->model, w->holds, f->a)) {
        w->frames_refused++;
        comm_release(w->comm, event);
        return BG_OK;
    }
    w->duplicates += executor_root_held(w->ex, f->a, f->b);
    bg_status status = executor_set_root(w->ex, f->a, f->b, event->payload, (size_t)f->bytes, err); // or compares
    release_parts(w, piece_of(w, f->a, f->b));
    if (status)
        bg_fail_prefix(err, "member %u", event->peer);
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
            status = send_root(w, bucket, piece, &root, err);
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
    for (uint32_t i = 0; i < total; i++)
        w->pieces[i].parts = w->pieces[i].leaves = 0;
    memset(w->posted, 0, w->job->model->bucket_count + 1);
}
