// When a step counts: losses and votes of the open step come in, any order, any number of times; when all are there and
// agree, the verdict is appended to the log and then sent. Values have content keys, so what was said in an earlier
// generation of the same step still holds. Allocates nothing.
#include "ctl/ctl_int.h"

#include "base/mem.h"
#include "train/optim.h"

#include <math.h>
#include <string.h>

void ctl_open_init(struct ctl *ctl)
{
    struct ctl_open *open = &ctl->open;
    open->losses = bg_alloc_array(ctl->o.micro_batches, sizeof *open->losses);
    open->loss_known = bg_alloc_array(ctl->o.micro_batches, 1);
    open->loss_from = bg_alloc_array(ctl->o.micro_batches, sizeof *open->loss_from);
    open->scratch = bg_alloc_array(ctl->o.micro_batches, sizeof *open->scratch);
    open->squares = bg_alloc_array(ctl->o.param_count, sizeof *open->squares);
    open->proofs = bg_alloc_array(ctl->o.units, sizeof *open->proofs);
    open->proof_from = bg_alloc_array(ctl->o.units, sizeof *open->proof_from);
    open->square_from = bg_alloc_array(ctl->o.param_count, sizeof *open->square_from);
    ctl_open_reset(ctl);
}

void ctl_open_fini(struct ctl *ctl)
{
    bg_free(ctl->open.losses);
    bg_free(ctl->open.loss_known);
    bg_free(ctl->open.loss_from);
    bg_free(ctl->open.scratch);
    bg_free(ctl->open.squares);
    bg_free(ctl->open.square_from);
    bg_free(ctl->open.proofs);
    bg_free(ctl->open.proof_from);
}

void ctl_open_reset(struct ctl *ctl)
{
    memset(ctl->open.loss_known, 0, ctl->o.micro_batches);
    memset(ctl->open.square_from, 0, ctl->o.param_count * sizeof *ctl->open.square_from);
    memset(ctl->open.proof_from, 0, ctl->o.units * sizeof *ctl->open.proof_from);
    ctl->open.losses_missing = ctl->o.micro_batches;
    ctl->open.squares_missing = ctl->o.param_count;
    for (uint32_t i = 0; i < ctl->member_count; i++)
        ctl->members[i].voted = false;
}

static bool same_bits(double a, double b)
{
    return memcmp(&a, &b, sizeof a) == 0;
}

// False: another member said otherwise, and the job has failed.
bool ctl_open_loss(struct ctl *ctl, const struct ctl_member *member, uint32_t micro_batch, double loss)
{
    struct ctl_open *open = &ctl->open;
    if (!open->loss_known[micro_batch]) {
        open->loss_known[micro_batch] = 1;
        open->losses[micro_batch] = loss;
        open->loss_from[micro_batch] = member->id;
        open->losses_missing--;
        return true;
    }
    if (same_bits(open->losses[micro_batch], loss))
        return true;
    ctl_failf(ctl, BG_CORRUPT,
              "step %llu: members %u and %u disagree on the loss of micro-batch %u (%.17g and %.17g): one of them "
              "computes wrongly or its memory is damaged. Check their machine, then resume the run",
              (unsigned long long)ctl->committed, open->loss_from[micro_batch], member->id, micro_batch,
              open->losses[micro_batch], loss);
    return false;
}

static bool open_square(struct ctl *ctl, const struct ctl_member *member, uint32_t param, double square)
{
    struct ctl_open *open = &ctl->open;
    if (!open->square_from[param]) {
        open->square_from[param] = member->id;
        open->squares[param] = square;
        open->squares_missing--;
        return true;
    }
    if (same_bits(open->squares[param], square))
        return true;
    ctl_failf(ctl, BG_CORRUPT,
              "step %llu: members %u and %u disagree on the gradient of %s (sums of squares %.17g and %.17g): one of "
              "them computes wrongly or its memory is damaged. Check their machine, then resume the run",
              (unsigned long long)ctl->committed, open->square_from[param], member->id, ctl->o.param_names[param],
              open->squares[param], square);
    return false;
}

// The first sign of life of the generation's work since somebody was lost.
static void note_progress(struct ctl *ctl)
{
    if (!ctl->lost_ns)
        return;
    json_t *fields = json_object();
    json_object_set_new(fields, "generation", ctl_number(ctl->generation));
    json_object_set_new(fields, "ms", ctl_ms(ctl->now_ns - ctl->lost_ns));
    ctl->lost_ns = 0;
    ctl_say(ctl, "recovered", fields);
}

void ctl_take_loss(struct ctl *ctl, struct ctl_member *member, const struct wire_frame *frame, const void *payload)
{
    struct bg_error err = {0};
    struct message_loss loss;
    bg_status status = message_loss_decode(payload, frame->bytes, &err, &loss);
    if (!status && (loss.first > ctl->o.micro_batches || loss.count > ctl->o.micro_batches - loss.first))
        status = bg_fail(&err, BG_FORMAT, "LOSS of micro-batches %u..%u of %u", loss.first, loss.first + loss.count,
                         ctl->o.micro_batches);
    if (status) {
        ctl_member_lose(ctl, member->id, err.text, true);
        return;
    }
    if (frame->step != ctl->committed)
        return;
    note_progress(ctl);
    for (uint32_t i = 0; i < loss.count; i++)
        if (!ctl_open_loss(ctl, member, loss.first + i, message_double(loss.losses, i)))
            return;
    ctl_try_commit(ctl);
}

// Holders of a unit (replicas, followers, the shadow) must have the same weights and moments, bit for bit.
void ctl_take_proof(struct ctl *ctl, struct ctl_member *member, const struct wire_frame *frame, const void *payload)
{
    struct bg_error err = {0};
    struct message_proof proof;
    struct ctl_open *open = &ctl->open;
    bg_status status = message_proof_decode(payload, frame->bytes, &err, &proof);
    if (!status && proof.count != ctl->o.units)
        status = bg_fail(&err, BG_FORMAT, "PROOF of %u units of %u", proof.count, ctl->o.units);
    if (status) {
        ctl_member_lose(ctl, member->id, err.text, true);
        return;
    }
    for (uint32_t u = 0; u < proof.count && frame->step == ctl->committed; u++) {
        if (!proof.held[u])
            continue;
        uint64_t sum = message_u64(proof.sums, u);
        if (open->proof_from[u] && open->proofs[u] != sum) {
            ctl_failf(
                ctl, BG_CORRUPT,
                "before step %llu: members %u and %u disagree on the weights and moments of unit %u (sums %016llx "
                "and %016llx): one of them computes wrongly or its memory is damaged. Check their machine, then "
                "resume the run",
                (unsigned long long)ctl->committed, open->proof_from[u], member->id, u,
                (unsigned long long)open->proofs[u], (unsigned long long)sum);
            return;
        }
        open->proof_from[u] = member->id;
        open->proofs[u] = sum;
    }
}

void ctl_take_vote(struct ctl *ctl, struct ctl_member *member, const struct wire_frame *frame, const void *payload)
{
    struct bg_error err = {0};
    struct message_vote vote;
    bg_status status = message_vote_decode(payload, frame->bytes, &err, &vote);
    if (!status && vote.count != ctl->o.param_count)
        status = bg_fail(&err, BG_FORMAT, "VOTE on %u parameters of %u", vote.count, ctl->o.param_count);
    if (status) {
        ctl_member_lose(ctl, member->id, err.text, true);
        return;
    }
    if (frame->step != ctl->committed)
        return;
    note_progress(ctl);
    for (uint32_t p = 0; p < vote.count; p++)
        if (vote.held[p] && !open_square(ctl, member, p, message_double(vote.squares, p)))
            return;
    member->voted = true;
    ctl_try_commit(ctl);
}

bool ctl_last_commit(const struct ctl *ctl, struct message_commit *commit)
{
    if (ctl->committed == 0 || !ctl->commits[ctl->committed - 1].known)
        return false;
    const struct ctl_commit *known = &ctl->commits[ctl->committed - 1];
    *commit = (struct message_commit){ctl->committed - 1, ctl->losses[ctl->committed - 1], known->norm, known->clip};
    return true;
}

static bool complete(const struct ctl *ctl)
{
    if (ctl->phase != CTL_RUN || ctl->ending || ctl_task_blocks(ctl) || ctl->open.losses_missing)
        return false;
    for (uint32_t i = 0; i < ctl->member_count; i++)
        if (ctl->members[i].in && !ctl->members[i].voted)
            return false;
    return true;
}

// False: the job has failed.
static bool judge(struct ctl *ctl, struct message_commit *verdict)
{
    const struct ctl_open *open = &ctl->open;
    const uint64_t step = ctl->committed;
    uint32_t p = 0;
    while (p < ctl->o.param_count && open->square_from[p])
        p++;
    if (p < ctl->o.param_count) {
        ctl_failf(ctl, BG_INTERNAL, "step %llu: everybody voted, but nobody holds %s: the plan is incomplete",
                  (unsigned long long)step, ctl->o.param_names[p]);
        return false;
    }
    verdict->step = step;
    verdict->loss = ctl_verdict_loss(open->losses, ctl->o.micro_batches, ctl->o.targets, open->scratch);
    verdict->norm = optim_norm(open->squares, ctl->o.param_count);
    verdict->clip = ctl_verdict_clip(ctl->o.clip, verdict->norm);
    static const char advice[] =
        "The weights are those before the step; try a lower train.lr, a longer train.warmup or "
        "a smaller train.clip";
    for (p = 0; p < ctl->o.param_count && isfinite(open->squares[p]);)
        p++;
    const char *tensor = p < ctl->o.param_count ? ctl->o.param_names[p] : NULL;
    if (!isfinite(verdict->loss))
        ctl_failf(ctl, BG_NOT_FINITE,
                  "step %llu: the loss is not finite (%g); first tensor whose gradient is not finite: %s. %s",
                  (unsigned long long)step, verdict->loss, tensor ? tensor : "none, the logits", advice);
    else if (!isfinite(verdict->norm))
        ctl_failf(ctl, BG_NOT_FINITE, "step %llu: the gradient norm is not finite (%g); first tensor: %s. %s",
                  (unsigned long long)step, verdict->norm, tensor ? tensor : ctl->o.param_names[0], advice);
    else
        return true;
    return false;
}

// A step that is computed again gives what it gave before.
static bool agrees_with_log(struct ctl *ctl, const struct message_commit *verdict)
{
    const struct ctl_commit *known = &ctl->commits[verdict->step];
    bool same = !known->loss_known || same_bits(ctl->losses[verdict->step], verdict->loss);
    if (known->known)
        same = same && same_bits(known->norm, verdict->norm) && memcmp(&known->clip, &verdict->clip, 4) == 0;
    if (!same)
        ctl_failf(ctl, BG_CORRUPT,
                  "step %llu, computed again, has loss %.17g where the log says %.17g: a worker computes wrongly, or "
                  "the checkpoint at step %llu is not of this run",
                  (unsigned long long)verdict->step, verdict->loss, ctl->losses[verdict->step],
                  (unsigned long long)ctl->checkpoint_step);
    return same;
}

bool ctl_stops_here(const struct ctl *ctl)
{
    return ctl->stop || ctl->committed == ctl->o.steps || (ctl->o.stop_after && ctl->committed >= ctl->o.stop_after);
}

static void point(struct ctl *ctl, const char *name)
{
    if (ctl->host.point)
        ctl->host.point(ctl->host.arg, name);
}

static void send_commit(struct ctl *ctl, const struct message_commit *verdict)
{
    uint8_t payload[64];
    size_t bytes = message_commit_encode(verdict, payload, sizeof payload);
    for (uint32_t i = 0; i < ctl->member_count; i++)
        if (ctl->members[i].in)
            ctl_send(ctl, ctl->members[i].id, WIRE_COMMIT, payload, bytes);
}

void ctl_try_commit(struct ctl *ctl)
{
    struct message_commit verdict;
    if (!complete(ctl) || !judge(ctl, &verdict) || !agrees_with_log(ctl, &verdict))
        return;
    point(ctl, "before-log");
    const struct store_record record = {
        .kind = STORE_COMMIT, .a = verdict.step, .x = verdict.loss, .y = verdict.norm, .z = (double)verdict.clip};
    if (!ctl_append(ctl, &record))
        return;
    point(ctl, "after-log");
    send_commit(ctl, &verdict); // the frames name the open step: it moves on afterwards
    point(ctl, "after-commit");
    ctl->losses[verdict.step] = verdict.loss;
    ctl->commits[verdict.step] = (struct ctl_commit){verdict.norm, verdict.clip, true, true};
    ctl->committed++;
    ctl->failures = 0;
    ctl->ending = ctl_stops_here(ctl);
    plan_fini(&ctl->now); // from here on the steady one
    ctl_open_reset(ctl);
    if (ctl->host.committed)
        ctl->host.committed(ctl->host.arg, &verdict, ctl_members_live(ctl, MESSAGE_WORKER), ctl->generation);
    if (!ctl->ending && (ctl_members_wait(ctl) || ctl_draft_better(ctl)))
        ctl_generation_begin(ctl, CTL_EVERYBODY, true, "join");
    else
        ctl_tasks_next(ctl);
}
