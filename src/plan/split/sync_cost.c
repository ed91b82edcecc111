// The prediction of a synchronous step, and the shares of replicas.
#include "plan/split/sync.h"

#include "base/assert.h"
#include "base/mem.h"
#include "plan/split/sync_int.h"

#include <math.h>
#include <string.h>

// ---- The profile, as sums ----
static double *sums(const struct sync_model *m)
{
    return bg_alloc_array(m->units + 1u, sizeof(double));
}

// A host tells machines apart where they have a link of their own, or too few cores.
static void set_hosts(struct sync_model *m)
{
    const struct plan_profile *p = m->profile;
    const bool links = p->inner.latency_s != p->outer.latency_s || p->inner.bytes_s != p->outer.bytes_s;
    m->host = bg_alloc_array(p->machine_count + 1u, sizeof *m->host);
    m->near = true;
    for (uint32_t i = 0; i < p->machine_count; i++) {
        uint32_t beside = 0;
        double threads = 0, cores = INFINITY;
        for (uint32_t j = 0; j < p->machine_count; j++) {
            const struct plan_machine *other = &p->machines[j];
            if (other->host != p->machines[i].host)
                continue;
            beside++;
            threads += plan_machine_threads(other);
            cores = other->cores > 0 ? fmin(cores, other->cores) : cores;
        }
        m->host[i] = beside > 1 && (links || threads > cores) ? p->machines[i].host : SYNC_NO_HOST;
        m->near &= p->machines[i].host == p->machines[0].host;
    }
}

void sync_model_init(struct sync_model *m, const struct plan_profile *profile, const struct plan_sync_options *options)
{
    *m = (struct sync_model){.profile = profile, .options = options, .units = profile->unit_count};
    const uint32_t group = options->group < options->micro_batches ? options->group : options->micro_batches;
    m->items = (options->micro_batches - 1) / options->group + 1;
    m->item = (double)options->micro_batches / m->items;
    m->item_full = group;
    m->forward_s = sums(m);
    m->backward_s = sums(m);
    m->parameter_bytes = sums(m);
    m->gradient_bytes = sums(m);
    m->stash_bytes = sums(m);
    for (uint32_t u = 0; u < m->units; u++) {
        const struct plan_unit *unit = &profile->units[u];
        m->forward_s[u + 1] = m->forward_s[u] + unit->forward_s;
        m->backward_s[u + 1] = m->backward_s[u] + unit->input_s + unit->weight_s;
        m->parameter_bytes[u + 1] = m->parameter_bytes[u] + unit->parameter_bytes;
        m->gradient_bytes[u + 1] =
            m->gradient_bytes[u] + (unit->gradient_bytes > 0 ? unit->gradient_bytes : unit->parameter_bytes);
        m->stash_bytes[u + 1] = m->stash_bytes[u] + unit->stash_bytes;
    }
    set_hosts(m);
}

void sync_model_fini(struct sync_model *m)
{
    bg_free(m->forward_s);
    bg_free(m->backward_s);
    bg_free(m->parameter_bytes);
    bg_free(m->gradient_bytes);
    bg_free(m->stash_bytes);
    bg_free(m->host);
}

static double span_of(const double *sum, const struct sync_span *span)
{
    return sum[span->unit_end] - sum[span->unit_first];
}

double sync_speed(const struct plan_profile *profile, const struct plan_machine *machine, double threads)
{
    const double cores = machine->cores;
    if (cores <= 0 || threads <= cores)
        return plan_machine_speed(machine);
    const double lost = profile->sharing > 0 ? 1 - profile->sharing : 0; // of every core that several threads have
    return plan_machine_speed(machine) * (cores - lost * fmin(threads - cores, cores)) / threads;
}

// ---- One stage ----
static double bytes_time(const struct plan_link *link, double bytes)
{
    return link->bytes_s > 0 ? bytes / link->bytes_s : 0;
}

static const struct plan_link *link_of(const struct sync_model *m, uint32_t host, uint32_t other)
{
    return host != SYNC_NO_HOST && host == other ? &m->profile->inner : &m->profile->outer;
}

double sync_parameters(const struct sync_model *m, uint32_t first, uint32_t end)
{
    const bool both = first == 0 && end == m->units && m->units > 1; // of the units that a tied table is in
    return m->parameter_bytes[end] - m->parameter_bytes[first] - (both ? m->profile->tie_bytes : 0);
}

static double tail_of(const struct sync_model *m, const struct sync_span *span, const struct sync_team *team)
{
    const struct plan_profile *p = m->profile;
    const bool tied = span->unit_end == m->units && span->unit_first > 0 && p->tie_bytes > 0;
    const double gradient = span_of(m->gradient_bytes, span);
    double tail = p->step_byte_s * sync_parameters(m, span->unit_first, span->unit_end) / team->slowest;
    if (team->count > 1) {
        const double others = team->count - 1.0, part = others / team->count * gradient;
        const struct plan_link *link = link_of(m, team->host, team->host);
        tail += 2 * bytes_time(link, part) + 2 * others * link->latency_s +
                (p->reduce_byte_s + 4 * p->message_byte_s) * part / team->slowest;
    }
    if (tied) {
        const struct plan_link *link = m->near ? &p->inner : &p->outer;
        tail += link->latency_s + bytes_time(link, p->tie_bytes);
    }
    return tail;
}

struct sync_price sync_price(const struct sync_model *m, const struct sync_span *span, const struct sync_team *team)
{
    const struct plan_profile *p = m->profile;
    const uint32_t boundaries = (span->unit_first > 0 ? 1u : 0u) + (span->unit_end < m->units ? 1u : 0u);
    const double forward = span_of(m->forward_s, span);
    const double input = span->unit_first ? p->units[span->unit_first - 1].cut_bytes : 0;
    const double output = span->unit_end < m->units ? p->units[span->unit_end - 1].cut_bytes : 0;
    const double messages = boundaries * p->message_s + m->item * (input + output) * p->message_byte_s; // one way
    double backward = span_of(m->backward_s, span), stream = 0;
    if (span->mode & PLAN_SYNC_RECOMPUTE)
        backward += forward;
    const double disk = span->mode & PLAN_SYNC_OFFLOAD ? p->disk_byte_s * span_of(m->stash_bytes, span) : 0;
    struct sync_price price = {
        .work_s = m->item * (forward + backward + 2 * disk) + 2 * p->op_s + 2 * messages,
        .back_s = (m->item * (backward + disk) + p->op_s + messages) / team->slowest,
        .tail_s = tail_of(m, span, team),
    };
    if (span->unit_end < m->units) {
        const struct plan_link *link = link_of(m, team->host, span->next);
        stream = bytes_time(link, m->item * output);
        price.wire_s = 2 * (link->latency_s + stream);
    }
    price.item_s = price.work_s / team->slowest;
    price.busy_s = price.work_s * team->turn;
    price.wait_s = fmax(price.busy_s - price.item_s, ((m->items - 1) / team->count) * stream);
    return price;
}

// ---- Memory ----
struct sync_room sync_room(const struct sync_model *m, const struct sync_span *span, uint32_t count, uint32_t behind)
{
    const struct plan_profile *p = m->profile;
    const double input = span->unit_first ? p->units[span->unit_first - 1].cut_bytes : 0;
    const double output = span->unit_end < m->units ? p->units[span->unit_end - 1].cut_bytes : 0;
    const double stash = span_of(m->stash_bytes, span);
    const bool one = span->mode != 0; // stash in memory
    struct sync_room room = {
        .fixed = p->process_bytes + 4 * sync_parameters(m, span->unit_first, span->unit_end) +
                 m->item_full * (p->work_bytes + output + (one ? stash : 0)),
        .each = m->item_full * (input + (one ? 0 : stash)),
        .flights = m->options->gpipe ? UINT32_MAX : (count + behind - 1) / count + 1,
    };
    return room;
}

double sync_bytes(const struct sync_room *room, uint32_t share)
{
    return room->fixed + (share < room->flights ? share : room->flights) * room->each;
}

uint32_t sync_cap(const struct sync_room *room, double memory_bytes)
{
    if (memory_bytes <= 0 || sync_bytes(room, UINT32_MAX) <= memory_bytes)
        return UINT32_MAX;
    if (room->fixed + room->each > memory_bytes)
        return 0;
    uint32_t cap = (uint32_t)fmin((memory_bytes - room->fixed) / room->each, room->flights - 1.0);
    while (cap > 0 && sync_bytes(room, cap) > memory_bytes) // the division rounds
        cap--;
    return sync_bytes(room, cap + 1) <= memory_bytes ? cap + 1 : cap;
}

uint32_t sync_modes(const struct plan_sync_options *options, uint8_t modes[3])
{
    uint32_t count = 0;
    for (uint8_t mode = 0; mode < 3; mode++) {
        const bool again = mode & PLAN_SYNC_RECOMPUTE, apart = mode & PLAN_SYNC_OFFLOAD;
        if ((options->recompute == PLAN_SYNC_ON && !again) || (options->recompute == PLAN_SYNC_OFF && again) ||
            (options->offload == PLAN_SYNC_ON && !apart) || (options->offload == PLAN_SYNC_OFF && apart))
            continue;
        modes[count++] = mode;
    }
    return count;
}

// ---- Shares ----
struct queue { // of machines, by when each is done with one item more; a heap
    const double *speeds;
    const uint32_t *shares;
    uint32_t *heap, count;
};

static bool sooner(const struct queue *q, uint32_t a, uint32_t b)
{
    const double at = (q->shares[a] + 1) / q->speeds[a], other = (q->shares[b] + 1) / q->speeds[b];
    return at < other || (at <= other && a < b);
}

static void sink(struct queue *q, uint32_t at)
{
    const uint32_t machine = q->heap[at];
    for (uint32_t child; (child = 2 * at + 1) < q->count; at = child) {
        child += child + 1 < q->count && sooner(q, q->heap[child + 1], q->heap[child]);
        if (!sooner(q, q->heap[child], machine))
            break;
        q->heap[at] = q->heap[child];
    }
    q->heap[at] = machine;
}

double plan_sync_split(const double *speeds, const uint32_t *caps, uint32_t count, uint32_t items, uint32_t *shares)
{
    uint32_t heap[PLAN_PROFILE_MACHINES_MAX], left = items;
    struct queue q = {speeds, shares, heap, 0};
    double total = 0, turn = 0;
    if (count == 0 || count > items || count > PLAN_PROFILE_MACHINES_MAX)
        return 0;
    for (uint32_t j = 0; j < count; j++)
        total += speeds[j];
    // What each has in any best split, and at least one; then an item at a time to whoever is done with it first.
    const double least = (items - count) / total;
    for (uint32_t j = 0; j < count; j++) {
        const uint32_t cap = caps ? caps[j] : UINT32_MAX, share = (uint32_t)(least * speeds[j]);
        shares[j] = share < 1 ? 1 : share;
        shares[j] = shares[j] < cap ? shares[j] : cap;
        if (shares[j] == 0)
            return 0;
        left -= shares[j];
        if (shares[j] < cap)
            heap[q.count++] = j;
    }
    for (uint32_t at = q.count / 2; at-- > 0;)
        sink(&q, at);
    for (; left > 0 && q.count > 0; left--) {
        const uint32_t next = heap[0];
        shares[next]++;
        if (caps && shares[next] == caps[next])
            heap[0] = heap[--q.count];
        if (q.count)
            sink(&q, 0);
    }
    for (uint32_t j = 0; j < count; j++)
        turn = fmax(turn, shares[j] / speeds[j]);
    return left ? 0 : turn;
}

static struct sync_span span_at(const struct sync_model *m, const struct plan_sync_choice *choice, uint32_t stage);

static uint32_t behind_of(const struct plan_sync_choice *choice, uint32_t stage)
{
    return choice->seat_count - choice->stages[stage].seat_end;
}

bool sync_share(const struct sync_model *m, struct plan_sync_choice *choice, uint32_t stage)
{
    const struct plan_sync_stage *s = &choice->stages[stage];
    struct plan_sync_seat *seats = choice->seats + s->seat_first;
    const uint32_t count = s->seat_end - s->seat_first;
    const struct sync_span span = span_at(m, choice, stage);
    const struct sync_room room = sync_room(m, &span, count, behind_of(choice, stage));
    double *speeds = bg_alloc_array(count, sizeof *speeds);
    uint32_t *caps = bg_alloc_array(count, 2 * sizeof *caps), *shares = caps + count;
    for (uint32_t j = 0; j < count; j++) {
        speeds[j] = seats[j].speed;
        caps[j] = sync_cap(&room, m->profile->machines[seats[j].machine].memory_bytes);
    }
    const bool good = plan_sync_split(speeds, caps, count, m->items, shares) > 0;
    for (uint32_t j = 0; j < count && good; j++)
        seats[j].share = shares[j];
    for (uint32_t j = 1; j < count && good; j++) // larger shares first
        for (uint32_t k = j; k > 0 && seats[k].share > seats[k - 1].share; k--) {
            const struct plan_sync_seat swap = seats[k];
            seats[k] = seats[k - 1];
            seats[k - 1] = swap;
        }
    bg_free(speeds);
    bg_free(caps);
    return good;
}

static void set_speeds(const struct sync_model *m, struct plan_sync_choice *choice)
{
    const struct plan_machine *machines = m->profile->machines;
    for (uint32_t i = 0; i < choice->seat_count; i++) {
        const struct plan_machine *machine = &machines[choice->seats[i].machine];
        double threads = 0;
        for (uint32_t j = 0; j < choice->seat_count && machine->cores > 0; j++)
            if (machines[choice->seats[j].machine].host == machine->host)
                threads += machines[choice->seats[j].machine].threads;
        choice->seats[i].speed = sync_speed(m->profile, machine, threads);
    }
}

bool sync_share_all(const struct sync_model *m, struct plan_sync_choice *choice)
{
    set_speeds(m, choice);
    bool good = true;
    for (uint32_t s = 0; s < choice->stage_count && good; s++)
        good = sync_share(m, choice, s);
    return good;
}

// ---- The whole step ----
static uint32_t host_of(const struct sync_model *m, const struct plan_sync_choice *choice, uint32_t stage)
{
    const struct plan_sync_stage *s = &choice->stages[stage];
    uint32_t host = m->host[choice->seats[s->seat_first].machine];
    for (uint32_t i = s->seat_first + 1; i < s->seat_end; i++)
        host = m->host[choice->seats[i].machine] == host ? host : SYNC_NO_HOST;
    return host;
}

static struct sync_span span_at(const struct sync_model *m, const struct plan_sync_choice *choice, uint32_t stage)
{
    const struct plan_sync_stage *s = &choice->stages[stage];
    const bool last = stage + 1 == choice->stage_count;
    return (struct sync_span){s->unit_first, s->unit_end, last ? SYNC_NO_HOST : host_of(m, choice, stage + 1), s->mode};
}

static bg_status price_stage(const struct sync_model *m, struct plan_sync_choice *choice, uint32_t stage,
                             struct bg_error *err, struct sync_price *price)
{
    struct plan_sync_stage *s = &choice->stages[stage];
    const struct sync_span span = span_at(m, choice, stage);
    struct sync_team team = {s->seat_end - s->seat_first, host_of(m, choice, stage), INFINITY, 0};
    const struct sync_room room = sync_room(m, &span, team.count, behind_of(choice, stage));
    for (uint32_t i = s->seat_first; i < s->seat_end; i++) {
        struct plan_sync_seat *seat = &choice->seats[i];
        const struct plan_machine *machine = &m->profile->machines[seat->machine];
        team.slowest = fmin(team.slowest, seat->speed);
        team.turn = fmax(team.turn, seat->share / seat->speed);
        seat->memory_bytes = sync_bytes(&room, seat->share);
        if (machine->memory_bytes > 0 && seat->memory_bytes > machine->memory_bytes)
            return bg_fail(err, BG_INVALID, "units %u to %u need %.4g GB on machine %s, which has %.4g GB",
                           s->unit_first, s->unit_end - 1, 1e-9 * seat->memory_bytes, machine->name,
                           1e-9 * machine->memory_bytes);
    }
    *price = sync_price(m, &span, &team);
    s->work_s = price->work_s;
    s->item_s = price->item_s;
    s->wire_s = price->wire_s;
    s->busy_s = price->busy_s;
    s->tail_s = price->tail_s;
    return BG_OK;
}

bg_status sync_cost(const struct sync_model *m, struct bg_error *err, struct plan_sync_choice *choice)
{
    set_speeds(m, choice);
    choice->fill_s = choice->wait_s = choice->exposed_s = 0;
    double before = 0;
    for (uint32_t s = 0; s < choice->stage_count; s++) {
        struct sync_price price = {0};
        bg_status status = price_stage(m, choice, s, err, &price);
        if (status)
            return status;
        choice->fill_s += price.item_s + price.wire_s;
        choice->wait_s = fmax(choice->wait_s, price.wait_s);
        choice->exposed_s = fmax(choice->exposed_s, price.tail_s - before);
        before += price.back_s + price.wire_s / 2;
    }
    choice->step_s = choice->fill_s + choice->wait_s + choice->exposed_s + m->profile->commit_s;
    return BG_OK;
}

static bool well_formed(const struct plan_profile *profile, const struct plan_sync_choice *choice, uint32_t items)
{
    uint32_t unit = 0, seat = 0;
    for (uint32_t s = 0; s < choice->stage_count; s++) {
        const struct plan_sync_stage *stage = &choice->stages[s];
        if (stage->unit_first != unit || stage->unit_end <= unit || stage->seat_first != seat ||
            stage->seat_end <= seat || stage->seat_end > choice->seat_count)
            return false;
        uint64_t shares = 0;
        for (; seat < stage->seat_end; seat++) {
            if (choice->seats[seat].machine >= profile->machine_count || choice->seats[seat].share == 0)
                return false;
            for (uint32_t other = 0; other < seat; other++)
                if (choice->seats[other].machine == choice->seats[seat].machine)
                    return false;
            shares += choice->seats[seat].share;
        }
        if (shares != items)
            return false;
        unit = stage->unit_end;
    }
    return unit == profile->unit_count && seat == choice->seat_count;
}

bg_status plan_sync_cost(const struct plan_profile *profile, const struct plan_sync_options *options,
                         struct bg_error *err, struct plan_sync_choice *choice)
{
    bg_status status = sync_check(profile, options, err);
    if (status)
        return status;
    struct sync_model m;
    sync_model_init(&m, profile, options);
    status = well_formed(profile, choice, m.items)
                 ? sync_cost(&m, err, choice)
                 : bg_fail(err, BG_INVALID,
                           "a plan whose stages do not cover %u units in order, or whose shares are not %u items a "
                           "stage with one at least for each machine",
                           m.units, m.items);
    sync_model_fini(&m);
    return status;
}

// ---- Records ----
void plan_sync_choice_fini(struct plan_sync_choice *choice)
{
    bg_free(choice->stages);
    bg_free(choice->seats);
    *choice = (struct plan_sync_choice){0};
}

void plan_sync_fini(struct plan_sync *sync)
{
    for (uint32_t i = 0; i < sync->count; i++)
        plan_sync_choice_fini(&sync->choices[i]);
    *sync = (struct plan_sync){0};
}

struct plan_sync_choice plan_sync_choice_copy(const struct plan_sync_choice *choice)
{
    struct plan_sync_choice copy = *choice;
    copy.stages = bg_alloc_array(choice->stage_count, sizeof *copy.stages);
    copy.seats = bg_alloc_array(choice->seat_count, sizeof *copy.seats);
    memcpy(copy.stages, choice->stages, choice->stage_count * sizeof *copy.stages);
    memcpy(copy.seats, choice->seats, choice->seat_count * sizeof *copy.seats);
    return copy;
}
