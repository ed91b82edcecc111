// Best-first search over rewrites of a plan (as TASO's over graphs: "TASO: Optimizing Deep Learning Computation with
// Automatic Generation of Graph Substitutions", SOSP 2019, section 5): the cheapest plan not opened yet is opened, all
// that one rewrite makes of it is priced, and what is not much worse than the best is kept to be opened later.
#include "base/mem.h"
#include "plan/split/sync_int.h"

#include <string.h>

#define NOWHERE UINT32_MAX

struct draft { // a plan as one writes on it
    uint32_t stages;
    uint32_t *ends;  // (stages) unit
    uint32_t *place; // (machines) stage, NOWHERE
    uint32_t *seats; // (stages) how many
    uint8_t *modes;  // (stages)
};

struct probe {
    const struct sync_model *m;
    uint32_t budget; // plans still to be priced
    double slack;
    struct plan_sync_choice *best;
    struct plan_sync_choice *open; // a heap by step_s
    uint32_t open_count, open_capacity;
    uint64_t *seen; // hashes, open addressing, 0: free
    uint32_t seen_size;
    struct draft draft, scratch;
    bool better;
};

// ---- Drafts ----
static void draft_init(struct draft *d, const struct sync_model *m)
{
    const uint32_t most = m->units;
    d->ends = bg_alloc_array(most, sizeof *d->ends);
    d->seats = bg_alloc_array(most, sizeof *d->seats);
    d->modes = bg_alloc_array(most, 1);
    d->place = bg_alloc_array(m->profile->machine_count, sizeof *d->place);
}

static void draft_fini(struct draft *d)
{
    bg_free(d->ends);
    bg_free(d->seats);
    bg_free(d->modes);
    bg_free(d->place);
}

static void draft_copy(const struct sync_model *m, const struct draft *from, struct draft *to)
{
    to->stages = from->stages;
    memcpy(to->ends, from->ends, from->stages * sizeof *from->ends);
    memcpy(to->seats, from->seats, from->stages * sizeof *from->seats);
    memcpy(to->modes, from->modes, from->stages);
    memcpy(to->place, from->place, m->profile->machine_count * sizeof *from->place);
}

static void draft_of(const struct sync_model *m, const struct plan_sync_choice *choice, struct draft *d)
{
    d->stages = choice->stage_count;
    memset(d->place, 0xff, m->profile->machine_count * sizeof *d->place);
    for (uint32_t s = 0; s < d->stages; s++) {
        const struct plan_sync_stage *stage = &choice->stages[s];
        d->ends[s] = stage->unit_end;
        d->modes[s] = stage->mode;
        d->seats[s] = stage->seat_end - stage->seat_first;
        for (uint32_t i = stage->seat_first; i < stage->seat_end; i++)
            d->place[choice->seats[i].machine] = s;
    }
}

static struct plan_sync_choice choice_of(const struct sync_model *m, const struct draft *d)
{
    struct plan_sync_choice choice = {.stages = bg_alloc_array(d->stages, sizeof *choice.stages),
                                      .stage_count = d->stages};
    choice.seats = bg_alloc_array(m->profile->machine_count, sizeof *choice.seats);
    for (uint32_t s = 0, seat = 0; s < d->stages; s++) {
        choice.stages[s] =
            (struct plan_sync_stage){.unit_first = s ? d->ends[s - 1] : 0, .unit_end = d->ends[s], .mode = d->modes[s]};
        choice.stages[s].seat_first = choice.stages[s].seat_end = seat;
        seat += d->seats[s];
    }
    for (uint32_t i = 0; i < m->profile->machine_count; i++) {
        if (d->place[i] == NOWHERE)
            continue;
        choice.seats[choice.stages[d->place[i]].seat_end++].machine = i;
        choice.seat_count++;
    }
    return choice;
}

// ---- What was seen, what is open ----
static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 31) * 0x9e3779b97f4a7c15u;
    return (x ^ x >> 29) * 0xbf58476d1ce4e5b9u;
}

static uint64_t hash_of(const struct plan_sync_choice *choice)
{
    uint64_t hash = 1;
    for (uint32_t s = 0; s < choice->stage_count; s++) {
        const struct plan_sync_stage *stage = &choice->stages[s];
        uint64_t seats = 0;
        for (uint32_t i = stage->seat_first; i < stage->seat_end; i++) // in any order
            seats += mix(((uint64_t)choice->seats[i].machine << 32 | choice->seats[i].share) + 1);
        hash = mix(hash ^ seats) + mix((uint64_t)stage->unit_end << 8 | stage->mode);
    }
    return hash ? hash : 1;
}

static bool seen(struct probe *p, uint64_t hash)
{
    uint32_t at = (uint32_t)(hash % p->seen_size);
    while (p->seen[at] && p->seen[at] != hash)
        at = (at + 1) % p->seen_size;
    const bool known = p->seen[at] != 0;
    p->seen[at] = hash;
    return known;
}

static void push(struct probe *p, const struct plan_sync_choice *choice)
{
    if (p->open_count == p->open_capacity) {
        p->open_capacity = 2 * p->open_capacity + 64;
        p->open = bg_realloc_array(p->open, p->open_capacity, sizeof *p->open);
    }
    uint32_t at = p->open_count++;
    for (; at > 0 && p->open[(at - 1) / 2].step_s > choice->step_s; at = (at - 1) / 2)
        p->open[at] = p->open[(at - 1) / 2];
    p->open[at] = *choice;
}

static struct plan_sync_choice pop(struct probe *p)
{
    const struct plan_sync_choice top = p->open[0], last = p->open[--p->open_count];
    uint32_t at = 0;
    for (uint32_t child; (child = 2 * at + 1) < p->open_count; at = child) {
        child += child + 1 < p->open_count && p->open[child + 1].step_s < p->open[child].step_s;
        if (p->open[child].step_s >= last.step_s)
            break;
        p->open[at] = p->open[child];
    }
    if (p->open_count)
        p->open[at] = last;
    return top;
}

// Prices a plan whose shares are set, and takes it over.
static void consider(struct probe *p, struct plan_sync_choice *choice)
{
    struct bg_error ignored;
    const bool good = !seen(p, hash_of(choice)) && sync_cost(p->m, &ignored, choice) == BG_OK &&
                      choice->step_s < p->best->step_s * p->slack;
    if (!good) {
        plan_sync_choice_fini(choice);
        return;
    }
    if (choice->step_s < p->best->step_s * (1 - 1e-12)) {
        plan_sync_choice_fini(p->best);
        *p->best = plan_sync_choice_copy(choice);
        p->better = true;
    }
    push(p, choice);
}

// Gives the scratch draft its best shares.
static void submit(struct probe *p)
{
    if (!p->budget)
        return;
    p->budget--;
    struct plan_sync_choice choice = choice_of(p->m, &p->scratch);
    if (sync_share_all(p->m, &choice))
        consider(p, &choice);
    else
        plan_sync_choice_fini(&choice);
}

static struct draft *begin(struct probe *p)
{
    draft_copy(p->m, &p->draft, &p->scratch);
    return &p->scratch;
}

// ---- Rewrites ----
static void move_units(struct probe *p)
{
    for (uint32_t s = 0; s + 1 < p->draft.stages; s++) {
        const uint32_t first = s ? p->draft.ends[s - 1] : 0, end = p->draft.ends[s], last = p->draft.ends[s + 1];
        if (end - first > 1) {
            begin(p)->ends[s]--;
            submit(p);
        }
        if (last - end > 1) {
            begin(p)->ends[s]++;
            submit(p);
        }
    }
}

static void set_place(struct draft *d, uint32_t machine, uint32_t stage)
{
    if (d->place[machine] != NOWHERE)
        d->seats[d->place[machine]]--;
    if (stage != NOWHERE)
        d->seats[stage]++;
    d->place[machine] = stage;
}

static void move_machines(struct probe *p)
{
    const struct draft *now = &p->draft;
    for (uint32_t i = 0; i < p->m->profile->machine_count && !p->m->options->replicas; i++) {
        const uint32_t from = now->place[i];
        if (from != NOWHERE && now->seats[from] == 1)
            continue;
        for (uint32_t s = 0; s <= now->stages; s++) {
            const uint32_t to = s < now->stages ? s : NOWHERE;
            if (to == from || (to == NOWHERE && p->m->options->use_all))
                continue;
            set_place(begin(p), i, to);
            submit(p);
        }
    }
}

static void swap_machines(struct probe *p)
{
    const uint32_t count = p->m->profile->machine_count;
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t j = i + 1; j < count && p->budget; j++) {
            if (p->draft.place[i] == p->draft.place[j])
                continue;
            struct draft *d = begin(p);
            const uint32_t place = d->place[i];
            d->place[i] = d->place[j];
            d->place[j] = place;
            submit(p);
        }
}

static void change_modes(struct probe *p)
{
    uint8_t modes[3];
    const uint32_t count = sync_modes(p->m->options, modes);
    for (uint32_t s = 0; s < p->draft.stages && count > 1; s++)
        for (uint32_t i = 0; i < count; i++)
            if (modes[i] != p->draft.modes[s]) {
                begin(p)->modes[s] = modes[i];
                submit(p);
            }
}

static void join_stages(struct probe *p)
{
    for (uint32_t s = 0; s + 1 < p->draft.stages; s++) {
        struct draft *d = begin(p);
        d->seats[s] += d->seats[s + 1];
        d->stages--;
        d->ends[s] = d->ends[s + 1];
        for (uint32_t t = s + 1; t < d->stages; t++) {
            d->ends[t] = d->ends[t + 1];
            d->seats[t] = d->seats[t + 1];
            d->modes[t] = d->modes[t + 1];
        }
        for (uint32_t i = 0; i < p->m->profile->machine_count; i++)
            d->place[i] -= d->place[i] != NOWHERE && d->place[i] > s;
        submit(p);
    }
}

// The first `seats` machines of the stage keep the units before `end`.
static void divide(struct probe *p, uint32_t stage, uint32_t end, uint32_t seats)
{
    struct draft *d = begin(p);
    for (uint32_t t = d->stages++; t > stage; t--) {
        d->ends[t] = d->ends[t - 1];
        d->seats[t] = d->seats[t - 1];
        d->modes[t] = d->modes[t - 1];
    }
    d->ends[stage] = end;
    d->seats[stage] = d->seats[stage + 1] = 0;
    for (uint32_t i = 0; i < p->m->profile->machine_count; i++) {
        if (d->place[i] == NOWHERE || d->place[i] < stage)
            continue;
        if (d->place[i] > stage || d->seats[stage] == seats)
            d->place[i]++;
        if (d->place[i] <= stage + 1)
            d->seats[d->place[i]]++;
    }
    submit(p);
}

static void divide_stages(struct probe *p)
{
    for (uint32_t s = 0; s < p->draft.stages; s++)
        for (uint32_t end = (s ? p->draft.ends[s - 1] : 0) + 1; end < p->draft.ends[s]; end++)
            for (uint32_t seats = 1; seats < p->draft.seats[s] && p->budget; seats++)
                divide(p, s, end, seats);
}

static void shift_shares(struct probe *p, const struct plan_sync_choice *choice)
{
    for (uint32_t s = 0; s < choice->stage_count; s++)
        for (uint32_t i = choice->stages[s].seat_first; i < choice->stages[s].seat_end; i++)
            for (uint32_t j = choice->stages[s].seat_first; j < choice->stages[s].seat_end && p->budget; j++) {
                if (i == j || choice->seats[i].share < 2)
                    continue;
                struct plan_sync_choice made = plan_sync_choice_copy(choice);
                made.seats[i].share--;
                made.seats[j].share++;
                p->budget--;
                consider(p, &made);
            }
}

static void open_plan(struct probe *p, const struct plan_sync_choice *choice)
{
    const struct plan_sync_options *o = p->m->options;
    const bool free_cut = !o->cut;
    draft_of(p->m, choice, &p->draft);
    if (free_cut)
        move_units(p);
    change_modes(p);
    if (free_cut && !o->replicas && p->draft.stages > (o->stages_min ? o->stages_min : 1))
        join_stages(p);
    if (free_cut && !o->replicas && (!o->stages_max || p->draft.stages < o->stages_max))
        divide_stages(p);
    move_machines(p);
    shift_shares(p, choice);
    swap_machines(p);
}

bool sync_probe(const struct sync_model *m, uint32_t budget, double slack, struct plan_sync_choice *choice)
{
    struct probe p = {.m = m, .budget = budget, .slack = slack, .best = choice};
    p.seen_size = 2 * budget + 16;
    p.seen = bg_alloc_array(p.seen_size, sizeof *p.seen);
    draft_init(&p.draft, m);
    draft_init(&p.scratch, m);
    (void)seen(&p, hash_of(choice));
    struct plan_sync_choice first = plan_sync_choice_copy(choice);
    push(&p, &first);
    while (p.open_count && p.budget) {
        struct plan_sync_choice next = pop(&p);
        if (next.step_s <= p.best->step_s * p.slack)
            open_plan(&p, &next);
        plan_sync_choice_fini(&next);
    }
    for (uint32_t i = 0; i < p.open_count; i++)
        plan_sync_choice_fini(&p.open[i]);
    bg_free(p.open);
    bg_free(p.seen);
    draft_fini(&p.draft);
    draft_fini(&p.scratch);
    return p.better;
}

bool plan_sync_probe(const struct plan_profile *profile, const struct plan_sync_options *options, uint32_t budget,
                     double slack, struct plan_sync_choice *choice)
{
    struct sync_model m;
    sync_model_init(&m, profile, options);
    const bool better = sync_probe(&m, budget, slack, choice);
    sync_model_fini(&m);
    return better;
}
