// The search. From the last stage to the first: a state is a place to cut and a set of machines that are taken; a label
// of it is a row of stages behind that cut on those machines, with what the rest of the prediction needs to know of
// them: the sum of their times, that sum with the traffic that will show, the longest wait. Of two labels of one state
// one is dropped if it is nowhere better. Over all sets of machines and with no label lost the search is exact.
#include "plan/split/sync_search.h"

#include "base/mem.h"

#include <math.h>
#include <string.h>

#define NONE       UINT32_MAX
#define LABELS_MAX (1u << 22)

struct label {
    double sum_s, shown_s, wait_s; // sum of L; sum with the largest tail; largest wait
    uint32_t host, depth;          // of the first stage of the row; stages
    uint32_t node, team, cut;      // where it stands, its first stage
    uint32_t behind, next;         // label of the stages behind, next label of its state
    uint8_t mode;
};

struct search {
    const struct sync_model *m;
    const struct sync_kinds *kinds;
    const struct sync_lattice *lattice;
    const struct sync_places *places;
    struct sync_breadth how;
    uint8_t modes[3];
    uint32_t mode_count;
    double bound; // no longer steps are looked at
    struct label *labels;
    uint32_t label_count, label_capacity, spare;
    double fastest;            // speed of any machine
    uint32_t *wanted;          // (stages + 1) for a given shape: machines of so many first stages
    uint32_t *heads, *lengths; // (places->count + 1, nodes): labels of a state
    bool lost;                 // something was dropped that could have been best
    struct plan_sync *found;
};

// ---- Candidates ----
static bool same_shape(const struct plan_sync_choice *a, const struct plan_sync_choice *b)
{
    return a->stage_count == b->stage_count && a->seat_count == b->seat_count;
}

// Takes over *choice, which is priced.
void sync_offer(struct plan_sync *found, struct plan_sync_choice *choice)
{
    uint32_t at = 0;
    while (at < found->count && !same_shape(&found->choices[at], choice))
        at++;
    if (at == found->count && found->count == PLAN_SYNC_CHOICES)
        at--; // the last one is the worst
    if (at < found->count) {
        if (found->choices[at].step_s <= choice->step_s) {
            plan_sync_choice_fini(choice);
            return;
        }
        plan_sync_choice_fini(&found->choices[at]);
    } else {
        found->count++;
    }
    for (; at > 0 && found->choices[at - 1].step_s > choice->step_s; at--)
        found->choices[at] = found->choices[at - 1];
    found->choices[at] = *choice;
}

// The plan that a label of the first place stands for.
static void take_label(const struct search *s, uint32_t index)
{
    const struct label *label = &s->labels[index];
    struct plan_sync_choice choice = {.stages = bg_alloc_array(label->depth, sizeof *choice.stages)};
    uint32_t *next = bg_alloc_array(s->kinds->count, sizeof *next);
    choice.seats = bg_alloc_array(s->m->profile->machine_count, sizeof *choice.seats);
    for (uint32_t end; index != NONE; index = label->behind) {
        label = &s->labels[index];
        if (label->team == NONE)
            continue;
        const struct sync_lattice_team *team = &s->lattice->teams[label->team];
        struct plan_sync_stage *stage = &choice.stages[choice.stage_count++];
        *stage = (struct plan_sync_stage){.unit_first = s->places->at[label->cut], .mode = label->mode};
        stage->seat_first = choice.seat_count;
        for (uint32_t j = 0; j < team->team.count; j++) {
            const uint32_t kind = s->lattice->members[team->member_first + j].kind;
            choice.seats[choice.seat_count++].machine = s->kinds->sorted[s->kinds->kinds[kind].first + next[kind]++];
        }
        stage->seat_end = choice.seat_count;
        end = label->behind == NONE ? s->places->count : s->labels[label->behind].cut;
        stage->unit_end = s->places->at[end];
    }
    bg_free(next);
    struct bg_error ignored;
    if (sync_share_all(s->m, &choice) && sync_cost(s->m, &ignored, &choice) == BG_OK)
        sync_offer(s->found, &choice);
    else
        plan_sync_choice_fini(&choice);
}

// ---- Labels ----
static double larger(double a, double b) // of numbers; in place, unlike fmax
{
    return a > b ? a : b;
}

static bool no_worse(const struct search *s, const struct label *a, const struct label *b)
{
    return a->sum_s <= b->sum_s && a->shown_s <= b->shown_s && a->wait_s <= b->wait_s && a->host == b->host &&
           (!s->how.by_depth || a->depth == b->depth);
}

static double step_of(const struct label *label)
{
    return label->shown_s + label->wait_s;
}

static void unlink_label(struct search *s, size_t state, uint32_t *at)
{
    const uint32_t gone = *at;
    *at = s->labels[gone].next;
    s->labels[gone].next = s->spare; // its state is not open yet: no other label stands in front of it
    s->spare = gone;
    s->lengths[state]--;
}

static uint32_t new_label(struct search *s)
{
    if (s->spare != NONE) {
        const uint32_t label = s->spare;
        s->spare = s->labels[label].next;
        return label;
    }
    if (s->label_count == s->label_capacity && s->label_count < LABELS_MAX) {
        s->label_capacity = 2 * s->label_capacity + 1024;
        s->labels = bg_realloc_array(s->labels, s->label_capacity, sizeof *s->labels);
    }
    return s->label_count < LABELS_MAX ? s->label_count++ : NONE;
}

static void add_label(struct search *s, const struct label *label)
{
    const size_t state = (size_t)label->cut * s->lattice->nodes + label->node;
    uint32_t *worst = &s->heads[state];
    for (uint32_t *at = &s->heads[state]; *at != NONE;) {
        const struct label *other = &s->labels[*at];
        if (no_worse(s, other, label))
            return;
        if (no_worse(s, label, other)) {
            unlink_label(s, state, at);
            continue;
        }
        worst = step_of(other) > step_of(&s->labels[*worst]) ? at : worst;
        at = &s->labels[*at].next;
    }
    if (s->how.beam && s->lengths[state] >= s->how.beam) {
        s->lost = true;
        if (step_of(label) >= step_of(&s->labels[*worst]))
            return;
        unlink_label(s, state, worst);
    }
    const uint32_t made = new_label(s);
    s->lost |= made == NONE;
    if (made == NONE)
        return;
    s->labels[made] = *label;
    s->labels[made].next = s->heads[state];
    s->heads[state] = made;
    s->lengths[state]++;
}

// ---- Stages ----
static double memory_of(const struct search *s, uint32_t kind)
{
    return s->m->profile->machines[s->kinds->sorted[s->kinds->kinds[kind].first]].memory_bytes;
}

// Does the team hold it, and how long is its longest turn then? 0: it does not.
static double turn_of(const struct search *s, const struct sync_span *span, const struct sync_lattice_team *team,
                      uint32_t behind)
{
    const struct sync_room room = sync_room(s->m, span, team->team.count, behind);
    const struct sync_member *members = s->lattice->members + team->member_first;
    const uint32_t count = team->team.count;
    if (sync_bytes(&room, UINT32_MAX) <= team->memory_least)
        return team->team.turn;
    if (room.fixed + room.each > team->memory_least)
        return 0;
    bool binds = false;
    for (uint32_t j = 0; j < count && !binds; j++) {
        const double has = memory_of(s, members[j].kind);
        binds = has > 0 && sync_bytes(&room, members[j].share) > has;
    }
    if (!binds || !s->how.capped)
        return binds ? 0 : team->team.turn;
    double *speeds = bg_alloc_array(count, sizeof *speeds);
    uint32_t *caps = bg_alloc_array(count, 2 * sizeof *caps);
    for (uint32_t j = 0; j < count; j++) {
        speeds[j] = s->kinds->kinds[members[j].kind].speed;
        caps[j] = sync_cap(&room, memory_of(s, members[j].kind));
    }
    const double turn = plan_sync_split(speeds, caps, count, s->m->items, caps + count);
    bg_free(speeds);
    bg_free(caps);
    return turn;
}

// Of units from..cut on this team: is any longer stage out of the question?
static bool too_much(const struct search *s, const struct sync_lattice_team *team, uint32_t first, uint32_t end)
{
    const struct sync_model *m = s->m;
    const double bytes =
        4 * sync_parameters(m, first, end) + m->item_full * (m->stash_bytes[end] - m->stash_bytes[first]);
    const double work_s =
        m->item * (m->forward_s[end] - m->forward_s[first] + m->backward_s[end] - m->backward_s[first]);
    return bytes > team->memory_least || work_s * team->team.turn > s->bound;
}

static bool fits_options(const struct search *s, const struct label *behind, const struct sync_team *team)
{
    const struct plan_sync_options *o = s->m->options;
    return (!o->stages_max || behind->depth < o->stages_max) &&
           (!o->replicas || team->count == o->replicas[o->stages_max - 1 - behind->depth]);
}

// Of a given shape: whether what is left of the units and of the machines may still make the stages in front.
static bool may_end(const struct search *s, uint32_t depth, uint32_t from, uint32_t node)
{
    const struct plan_sync_options *o = s->m->options;
    const struct sync_lattice *l = s->lattice;
    if (!o->replicas)
        return true;
    const uint32_t stages = o->stages_max - depth;
    return from >= stages && (from == 0 || stages > 0) && l->used[l->last] - l->used[node] >= s->wanted[stages];
}

// Puts a stage in front of every label of a state.
static void extend(struct search *s, size_t state, const struct sync_arc *arc, const struct sync_span *wanted,
                   const struct sync_team *team, uint32_t from, double left_s)
{
    const double rest_s = left_s > 0 ? left_s * s->m->items / s->lattice->left[arc->to] : 0;
    struct sync_span span = *wanted;
    struct sync_price price = {0};
    for (uint32_t at = s->heads[state], host = NONE - 1; at != NONE; at = s->labels[at].next) {
        const struct label *label = &s->labels[at];
        if (!fits_options(s, label, team) || !may_end(s, label->depth + 1, from, arc->to))
            continue;
        if (label->host != host) {
            span.next = host = label->host;
            price = sync_price(s->m, &span, team);
        }
        const double stage_s = price.item_s + price.wire_s, sum_s = label->sum_s + stage_s;
        const struct label made = {
            .sum_s = sum_s,
            .shown_s = larger(sum_s + price.tail_s, label->shown_s + stage_s - price.back_s - price.wire_s / 2),
            .wait_s = larger(label->wait_s, price.wait_s),
            .host = team->host,
            .depth = label->depth + 1,
            .node = arc->to,
            .team = arc->team,
            .cut = from,
            .behind = at,
            .mode = span.mode,
        };
        const double least_s = larger(made.shown_s, sum_s + left_s / s->fastest) + made.wait_s;
        if (larger(least_s, sum_s + rest_s) <= s->bound)
            add_label(s, &made);
    }
}

// A stage of units from..cut on the team of an arc, in every mode that may be best.
static void add_stage(struct search *s, size_t state, const struct sync_arc *arc, uint32_t cut, uint32_t from)
{
    const struct sync_lattice *l = s->lattice;
    const struct sync_lattice_team *team = &l->teams[arc->team];
    const double left_s = s->m->item * (s->m->forward_s[s->places->at[from]] + s->m->backward_s[s->places->at[from]]);
    const double rest_s = left_s > 0 ? left_s * s->m->items / l->left[arc->to] : 0;
    if ((from > 0 && arc->to == l->last) || rest_s > s->bound ||
        (from == 0 && arc->to != l->last && s->m->options->use_all))
        return;
    for (uint32_t i = 0; i < s->mode_count; i++) {
        const struct sync_span span = {s->places->at[from], s->places->at[cut], SYNC_NO_HOST, s->modes[i]};
        struct sync_team priced = team->team;
        priced.turn = turn_of(s, &span, team, l->used[state % l->nodes]);
        if (priced.turn <= 0)
            continue;
        extend(s, state, arc, &span, &priced, from, left_s);
        if (i == 0 && priced.turn <= team->team.turn)
            break; // saving memory only takes time
    }
}

static void skip(struct search *s, size_t state, const struct sync_arc *arc)
{
    for (uint32_t at = s->heads[state]; at != NONE; at = s->labels[at].next) {
        struct label made = s->labels[at];
        made.node = arc->to;
        made.team = NONE;
        made.behind = at;
        if (may_end(s, made.depth, made.cut, made.node))
            add_label(s, &made);
    }
}

static void open_state(struct search *s, uint32_t cut, uint32_t node)
{
    const struct sync_lattice *l = s->lattice;
    const size_t state = (size_t)cut * l->nodes + node;
    if (s->heads[state] == NONE)
        return;
    for (size_t a = l->arc_first[node]; a < l->arc_first[node + 1]; a++) {
        const struct sync_arc *arc = &l->arcs[a];
        if (arc->team == NONE) {
            if (!s->m->options->use_all)
                skip(s, state, arc);
            continue;
        }
        const uint32_t least = s->how.stepwise ? cut - 1 : 0;
        for (uint32_t from = cut; from-- > least;) {
            if (too_much(s, &l->teams[arc->team], s->places->at[from], s->places->at[cut]))
                break;
            add_stage(s, state, arc, cut, from);
        }
    }
}

static void take_labels(struct search *s)
{
    const struct sync_lattice *l = s->lattice;
    const struct plan_sync_options *o = s->m->options;
    for (uint32_t node = 0; node < l->nodes; node++)
        for (uint32_t at = s->heads[node]; at != NONE; at = s->labels[at].next) {
            const uint32_t depth = s->labels[at].depth;
            if (s->labels[at].team != NONE && depth >= o->stages_min && (!o->replicas || depth == o->stages_max))
                take_label(s, at);
        }
}

bool sync_search(const struct sync_model *m, const struct sync_kinds *kinds, const struct sync_lattice *lattice,
                 const struct sync_places *places, const struct sync_breadth *how, struct plan_sync *found)
{
    struct search s = {m, kinds, lattice, places, *how, .bound = INFINITY, .spare = NONE, .found = found};
    const size_t states = (size_t)(places->count + 1) * lattice->nodes;
    s.mode_count = sync_modes(m->options, s.modes);
    for (uint32_t i = 0; i < kinds->count; i++)
        s.fastest = larger(s.fastest, kinds->kinds[i].speed);
    if (!how->all_shapes && found->count) // what is a little worse is told as well
        s.bound = 1.02 * (found->choices[0].step_s - m->profile->commit_s);
    if (m->options->longest_s > 0)
        s.bound = fmin(s.bound, m->options->longest_s - m->profile->commit_s);
    if (m->options->replicas)
        s.wanted = bg_alloc_array(m->options->stages_max + 1u, sizeof *s.wanted);
    for (uint32_t r = 0; s.wanted && r < m->options->stages_max; r++)
        s.wanted[r + 1] = s.wanted[r] + m->options->replicas[r];
    s.heads = bg_alloc_array(states, sizeof *s.heads);
    s.lengths = bg_alloc_array(states, sizeof *s.lengths);
    memset(s.heads, 0xff, states * sizeof *s.heads); // NONE
    add_label(&s, &(struct label){.host = SYNC_NO_HOST, .team = NONE, .cut = places->count, .behind = NONE});
    for (uint32_t cut = places->count; cut > 0; cut--)
        for (uint32_t node = 0; node < lattice->nodes; node++)
            open_state(&s, cut, node);
    take_labels(&s);
    bg_free(s.wanted);
    bg_free(s.heads);
    bg_free(s.lengths);
    bg_free(s.labels);
    return !s.lost;
}
