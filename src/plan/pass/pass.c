// Passes by name, and which of them a plan gets: each is tried in the simulator of a step, on top of those before it.
#include "plan/pass/pass.h"

#include "base/str.h"
#include "plan/cost/timeline_int.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define WORTH 1e-3 // part of a step that a pass has to win
enum { OWNERS_MAX = 16, FEW = 12 };

void plan_passes_apply(struct plan *plan, const struct plan_passes *passes)
{
    plan_pass_wait_free(plan, !passes->held);
    plan_pass_owner(plan, passes->owner);
    plan_pass_chunks(plan, passes->chunks);
}

// ---- Names ----
// ":NUMBER" at *text, from `least` to `most`; none: *open.
static bool read_number(const char *text, uint32_t least, uint32_t most, uint32_t *number, bool *open)
{
    uint32_t value = 0;
    *open = *text == '\0';
    if (*open)
        return true;
    if (*text++ != ':' || !*text || strlen(text) > 4)
        return false;
    for (; *text >= '0' && *text <= '9'; text++)
        value = value * 10 + (uint32_t)(*text - '0');
    *number = value;
    return !*text && value >= least && value <= most;
}

static bool read_word(const char *word, struct plan_pass_wish *wish)
{
    static const char owner[] = "one-owner", chunks[] = "chunks";
    uint32_t replica = 0;
    if (strcmp(word, "wait-free") == 0) {
        wish->passes.held = false;
        return true;
    }
    if (strcmp(word, "factors") == 0)
        return wish->factors = true;
    if (strncmp(word, chunks, sizeof chunks - 1) == 0)
        return read_number(word + sizeof chunks - 1, 1, PLAN_CHUNKS_MAX, &wish->passes.chunks,
                           &wish->open[PLAN_PASS_CHUNKS]);
    if (strncmp(word, owner, sizeof owner - 1) != 0 ||
        !read_number(word + sizeof owner - 1, 0, PLAN_WORKERS_MAX - 1, &replica, &wish->open[PLAN_PASS_OWNER]))
        return false;
    wish->passes.owner = wish->open[PLAN_PASS_OWNER] ? 0 : replica + 1;
    return true;
}

bg_status plan_passes_parse(const char *text, struct bg_error *err, struct plan_pass_wish *wish)
{
    struct plan_pass_wish made = {.passes = {.held = true}};
    struct bg_strlist words = {0};
    bool good = true;
    if (strcmp(text, "auto") == 0) {
        *wish = (struct plan_pass_wish){.open = {true, true, true}, .factors = true};
        return BG_OK;
    }
    bg_strlist_split(&words, strcmp(text, "none") == 0 ? "" : text, ',');
    good = strcmp(text, "none") == 0 || (words.count > 0 && *text);
    for (size_t i = 0; i < words.count && good && strcmp(text, "none") != 0; i++)
        good = read_word(words.items[i], &made);
    bg_strlist_fini(&words);
    if (!good)
        return bg_fail(err, BG_INVALID,
                       "\"%.60s\": expected auto, none, or some of wait-free, one-owner[:REPLICA], chunks[:1..%d] and "
                       "factors with commas between them",
                       text, PLAN_CHUNKS_MAX);
    *wish = made;
    return BG_OK;
}

void plan_passes_text(const struct plan_passes *passes, char text[64])
{
    char owner[24] = "", chunks[24] = "";
    if (passes->owner)
        snprintf(owner, sizeof owner, ",one-owner:%u", passes->owner - 1);
    if (passes->chunks)
        snprintf(chunks, sizeof chunks, ",chunks:%u", passes->chunks);
    snprintf(text, 64, "%s%s%s", passes->held ? "" : ",wait-free", owner, chunks);
    memmove(text, text + 1, strlen(text)); // the first comma; of no pass the end
    if (!*text)
        snprintf(text, 64, "none");
}

// ---- Choosing ----
struct trial {
    const struct plan_profile *profile;
    struct bg_error *err;
    struct plan *plan; // as far as it is decided
    struct plan_passes passes, best;
    double best_s;
};

static bg_status step_of(struct trial *t, const struct plan_passes *passes, double *step_s)
{
    struct plan_timeline timeline;
    plan_passes_apply(t->plan, passes);
    bg_status status = plan_timeline(t->plan, t->profile, t->err, &timeline);
    if (!status) {
        *step_s = timeline.step_s;
        plan_timeline_fini(&timeline);
    }
    return status;
}

static bg_status attempt(struct trial *t, struct plan_passes passes)
{
    double step_s = 0;
    bg_status status = step_of(t, &passes, &step_s);
    if (!status && step_s <= t->best_s) {
        t->best = passes;
        t->best_s = step_s;
    }
    return status;
}

// Pieces of the largest unit of a stage with several replicas, at most PLAN_CHUNKS_MAX.
static uint32_t chunks_max(const struct trial *t)
{
    double most = 0;
    for (uint32_t s = 0; s < t->plan->stage_count; s++)
        for (uint32_t u = t->plan->stages[s].unit_first; u < t->plan->stages[s].unit_end; u++)
            most = fmax(most, ceil(plan_gradient_bytes(&t->profile->units[u]) / PLAN_PIECE_BYTES));
    return most < PLAN_CHUNKS_MAX ? (uint32_t)most : PLAN_CHUNKS_MAX;
}

// Every number where there are few, else about three to each doubling; of equals the largest, which is nearest to a
// message a piece.
static bg_status try_chunks(struct trial *t)
{
    bg_status status = BG_OK;
    const uint32_t max = chunks_max(t);
    for (uint32_t chunks = 1; chunks <= max && !status; chunks += max <= FEW || chunks < 6 ? 1 : (chunks + 1) / 3) {
        struct plan_passes passes = t->passes;
        passes.chunks = chunks;
        status = attempt(t, passes);
    }
    return status;
}

static bg_status try_owners(struct trial *t)
{
    uint32_t most = 0;
    bg_status status = BG_OK;
    for (uint32_t k = 0; k < t->plan->seat_count; k++)
        most = t->plan->seats[k].replica > most ? t->plan->seats[k].replica : most;
    for (uint32_t owner = 1; owner <= most + 1 && most > 0 && owner <= OWNERS_MAX && !status; owner++) {
        struct plan_passes passes = t->passes;
        passes.owner = owner;
        status = attempt(t, passes);
    }
    return status;
}

// What wins nothing stays as it always was: wait-free, in turns, a message a piece.
static bg_status try_open(struct trial *t, enum plan_pass pass)
{
    if (pass == PLAN_PASS_OWNER)
        return try_owners(t);
    if (pass == PLAN_PASS_CHUNKS)
        return try_chunks(t);
    return attempt(t, (struct plan_passes){.chunks = t->passes.chunks, .owner = t->passes.owner});
}

static bg_status try_given(struct trial *t, enum plan_pass pass, const struct plan_passes *given)
{
    struct plan_passes passes = t->passes;
    if (pass == PLAN_PASS_OWNER)
        passes.owner = given->owner;
    else if (pass == PLAN_PASS_CHUNKS)
        passes.chunks = given->chunks;
    else
        passes.held = given->held;
    t->best_s = INFINITY; // shorter or not
    return attempt(t, passes);
}

bg_status plan_passes_choose(const struct plan_profile *profile, const struct plan_pass_wish *wish,
                             struct bg_error *err, struct plan *plan, struct plan_passes *passes,
                             struct plan_pass_gain gains[PLAN_PASSES])
{
    struct trial t = {.profile = profile, .err = err, .plan = plan, .passes = {.held = true}};
    double now_s = 0;
    bg_status status = step_of(&t, &t.passes, &now_s);
    for (int p = 0; p < PLAN_PASSES && !status; p++) {
        t.best = t.passes;
        t.best_s = now_s;
        status = wish->open[p] ? try_open(&t, (enum plan_pass)p) : try_given(&t, (enum plan_pass)p, &wish->passes);
        const bool worth = t.best_s < now_s * (1 - WORTH) || p == PLAN_PASS_WAIT_FREE;
        if (wish->open[p] && !worth)
            t.best = t.passes;
        gains[p] = (struct plan_pass_gain){t.best.held != t.passes.held || t.best.owner != t.passes.owner ||
                                               t.best.chunks != t.passes.chunks,
                                           now_s, t.best_s};
        now_s = !wish->open[p] || worth ? t.best_s : now_s;
        t.passes = t.best;
    }
    plan_passes_apply(plan, &t.passes);
    *passes = t.passes;
    return status;
}
