// Kinds of machines, and the lattices over them.
#include "plan/split/sync_lattice.h"

#include "base/assert.h"
#include "base/mem.h"

#include <math.h>
#include <string.h>

// ---- Kinds ----
// Negative: a stands before b. Cores and threads count where a host has too few for all.
static int compare(const struct sync_model *m, uint32_t a, uint32_t b)
{
    const struct plan_machine *x = &m->profile->machines[a], *y = &m->profile->machines[b];
    const double shared_x = m->host[a] == SYNC_NO_HOST ? 0 : x->cores;
    const double shared_y = m->host[b] == SYNC_NO_HOST ? 0 : y->cores;
    const double keys[][2] = {
        {m->host[a], m->host[b]},
        {-sync_speed(m->profile, x, plan_machine_threads(x)), -sync_speed(m->profile, y, plan_machine_threads(y))},
        {-x->memory_bytes, -y->memory_bytes},
        {shared_x, shared_y},
        {shared_x > 0 ? plan_machine_threads(x) : 0, shared_y > 0 ? plan_machine_threads(y) : 0},
    };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (keys[i][0] < keys[i][1] || keys[i][0] > keys[i][1])
            return keys[i][0] < keys[i][1] ? -1 : 1;
    return 0;
}

void sync_kinds_init(struct sync_kinds *k, const struct sync_model *m, bool apart)
{
    const uint32_t count = m->profile->machine_count;
    k->sorted = bg_alloc_array(count, sizeof *k->sorted);
    k->kinds = bg_alloc_array(count, sizeof *k->kinds);
    k->count = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t at = i;
        for (; at > 0 && compare(m, i, k->sorted[at - 1]) < 0; at--)
            k->sorted[at] = k->sorted[at - 1];
        k->sorted[at] = i;
    }
    for (uint32_t i = 0; i < count; i++) {
        if (apart || i == 0 || compare(m, k->sorted[i], k->sorted[i - 1]) != 0)
            k->kinds[k->count++] = (struct sync_kind){.first = i, .host = m->host[k->sorted[i]]};
        k->kinds[k->count - 1].count++;
    }
    for (uint32_t i = 0; i < k->count; i++) {
        const struct plan_machine *machine = &m->profile->machines[k->sorted[k->kinds[i].first]];
        k->kinds[i].speed = sync_speed(m->profile, machine, plan_machine_threads(machine));
    }
}

void sync_kinds_fini(struct sync_kinds *k)
{
    bg_free(k->sorted);
    bg_free(k->kinds);
}

static const struct plan_machine *machine_of(const struct sync_model *m, const struct sync_kinds *k, uint32_t kind)
{
    return &m->profile->machines[k->sorted[k->kinds[kind].first]];
}

// ---- Teams ----
static void close_team(struct sync_lattice *l, const struct sync_model *m, const struct sync_kinds *k,
                       struct sync_lattice_team *team)
{
    const uint32_t count = team->team.count;
    struct sync_member *members = l->members + team->member_first;
    double *speeds = bg_alloc_array(count, sizeof *speeds);
    uint32_t *shares = bg_alloc_array(count, sizeof *shares);
    team->memory_least = team->team.slowest = INFINITY;
    team->team.host = k->kinds[members[0].kind].host;
    for (uint32_t j = 0; j < count; j++) {
        const struct sync_kind *kind = &k->kinds[members[j].kind];
        const double memory = machine_of(m, k, members[j].kind)->memory_bytes;
        speeds[j] = kind->speed;
        team->team.slowest = fmin(team->team.slowest, kind->speed);
        team->memory_least = memory > 0 ? fmin(team->memory_least, memory) : team->memory_least;
        team->team.host = kind->host == team->team.host ? kind->host : SYNC_NO_HOST;
    }
    team->team.turn = plan_sync_split(speeds, NULL, count, m->items, shares);
    for (uint32_t j = 0; j < count; j++)
        members[j].share = shares[j];
    bg_free(speeds);
    bg_free(shares);
}

static void add_member(struct sync_lattice *l, struct sync_lattice_team *team, uint32_t kind)
{
    l->members[l->member_count++].kind = kind;
    team->team.count++;
}

// ---- All sets ----
uint64_t sync_lattice_size(const struct sync_kinds *k)
{
    double arcs = 1;
    for (uint32_t i = 0; i < k->count; i++)
        arcs *= (k->kinds[i].count + 1.0) * (k->kinds[i].count + 2.0) / 2;
    return arcs < 1e18 ? (uint64_t)arcs : UINT64_MAX;
}

static void digits_of(const struct sync_kinds *k, uint32_t node, uint32_t *digits)
{
    for (uint32_t i = 0; i < k->count; i++) {
        digits[i] = node % (k->kinds[i].count + 1);
        node /= k->kinds[i].count + 1;
    }
}

static bool within(const struct sync_model *m, const struct sync_kinds *k, const uint32_t *digits, const double *limit)
{
    for (uint32_t i = 0; limit && i < k->count; i++) {
        double threads = 0;
        for (uint32_t j = 0; j < k->count && limit[i] > 0; j++)
            if (k->kinds[j].host == k->kinds[i].host && k->kinds[j].host != SYNC_NO_HOST)
                threads += digits[j] * plan_machine_threads(machine_of(m, k, j));
        if (limit[i] > 0 && threads > limit[i])
            return false;
    }
    return true;
}

// A team for every set, by the set's node: the team of nobody is team 0.
static void all_teams(struct sync_lattice *l, const struct sync_model *m, const struct sync_kinds *k,
                      const uint32_t *digits)
{
    size_t members = 0;
    for (uint32_t n = 0; n < l->nodes; n++)
        members += l->used[n] <= m->items ? l->used[n] : 0;
    l->members = bg_alloc_array(members + 1, sizeof *l->members);
    l->teams = bg_alloc_array(l->nodes, sizeof *l->teams);
    l->team_count = l->nodes;
    for (uint32_t n = 1; n < l->nodes; n++) {
        struct sync_lattice_team *team = &l->teams[n];
        team->member_first = (uint32_t)l->member_count;
        for (uint32_t i = 0; i < k->count && l->used[n] <= m->items; i++)
            for (uint32_t c = 0; c < digits[(size_t)n * k->count + i]; c++)
                add_member(l, team, i);
        if (team->team.count)
            close_team(l, m, k, team);
    }
}

void sync_lattice_all(struct sync_lattice *l, const struct sync_model *m, const struct sync_kinds *k,
                      const double *limit)
{
    *l = (struct sync_lattice){.nodes = 1};
    for (uint32_t i = 0; i < k->count; i++)
        l->nodes *= k->kinds[i].count + 1;
    uint32_t *digits = bg_alloc_array((size_t)l->nodes * k->count, sizeof *digits);
    uint8_t *valid = bg_alloc_array(l->nodes, 1);
    l->used = bg_alloc_array(l->nodes, sizeof *l->used);
    l->left = bg_alloc_array(l->nodes, sizeof *l->left);
    for (uint32_t n = 0; n < l->nodes; n++) {
        uint32_t *taken = digits + (size_t)n * k->count;
        digits_of(k, n, taken);
        valid[n] = within(m, k, taken, limit);
        for (uint32_t i = 0; i < k->count; i++) {
            l->used[n] += taken[i];
            l->left[n] += (k->kinds[i].count - taken[i]) * k->kinds[i].speed;
        }
    }
    l->last = l->nodes - 1;
    all_teams(l, m, k, digits);
    l->arcs = bg_alloc_array((size_t)sync_lattice_size(k), sizeof *l->arcs);
    l->arc_first = bg_alloc_array(l->nodes + 1u, sizeof *l->arc_first);
    size_t count = 0;
    for (uint32_t n = 0; n < l->nodes; n++) {
        l->arc_first[n] = count;
        for (uint32_t to = n + 1; to < l->nodes && valid[n]; to++) {
            bool more = valid[to] && l->teams[to - n].team.count;
            for (uint32_t i = 0; i < k->count && more; i++)
                more = digits[(size_t)to * k->count + i] >= digits[(size_t)n * k->count + i];
            if (more) // then node numbers subtract as the sets do
                l->arcs[count++] = (struct sync_arc){to, to - n};
        }
    }
    l->arc_first[l->nodes] = count;
    bg_free(digits);
    bg_free(valid);
}

// ---- Runs of an order ----
void sync_lattice_runs(struct sync_lattice *l, const struct sync_model *m, const struct sync_kinds *k,
                       const uint32_t *order, uint32_t count, uint32_t grid)
{
    const uint32_t places = (count + grid - 1) / grid;
    *l = (struct sync_lattice){.nodes = places + 1, .last = places};
    l->used = bg_alloc_array(l->nodes, sizeof *l->used);
    l->left = bg_alloc_array(l->nodes, sizeof *l->left);
    l->arc_first = bg_alloc_array(l->nodes + 1u, sizeof *l->arc_first);
    size_t members = 0, runs = (size_t)places * l->nodes / 2;
    for (uint32_t n = places + 1; n-- > 0;) {
        l->used[n] = n * grid < count ? n * grid : count;
        for (uint32_t i = l->used[n]; n < places && i < l->used[n + 1]; i++)
            l->left[n] += k->kinds[order[i]].speed;
        l->left[n] += n < places ? l->left[n + 1] : 0;
    }
    for (uint32_t a = 0; a < places; a++)
        for (uint32_t b = a + 1; b <= places; b++)
            members += l->used[b] - l->used[a];
    l->members = bg_alloc_array(members, sizeof *l->members);
    l->teams = bg_alloc_array(runs, sizeof *l->teams);
    l->arcs = bg_alloc_array(runs + places, sizeof *l->arcs);
    size_t arcs = 0;
    for (uint32_t a = 0; a < places; a++) {
        l->arc_first[a] = arcs;
        l->arcs[arcs++] = (struct sync_arc){a + 1, UINT32_MAX};
        for (uint32_t b = a + 1; b <= places && l->used[b] - l->used[a] <= m->items; b++) {
            struct sync_lattice_team *team = &l->teams[l->team_count];
            team->member_first = (uint32_t)l->member_count;
            for (uint32_t i = l->used[a]; i < l->used[b]; i++)
                add_member(l, team, order[i]);
            close_team(l, m, k, team);
            l->arcs[arcs++] = (struct sync_arc){b, l->team_count++};
        }
    }
    l->arc_first[places] = l->arc_first[l->nodes] = arcs;
}

void sync_lattice_fini(struct sync_lattice *l)
{
    bg_free(l->used);
    bg_free(l->left);
    bg_free(l->arc_first);
    bg_free(l->arcs);
    bg_free(l->teams);
    bg_free(l->members);
}
