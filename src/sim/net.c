// Endpoints, links and reserved memory of the simulated network.
#include "sim/net.h"

#include "base/assert.h"
#include "base/hash.h"
#include "base/mem.h"

#include <stdio.h>
#include <string.h>

struct region { // from reserve()
    struct region *next;
    struct endpoint *owner; // NULL: its process has ended
    uint8_t *memory;
    void *block;
    size_t bytes;
    uint32_t readers; // events under way or handed out that point into it
    uint8_t *frozen;  // its bytes at the instant of its owner's death, while the owner's last call still runs
    bool dropped;     // unreserve() while somebody read it
};

struct event { // under way, or handed out by next()
    struct event *next;
    enum comm_event_kind kind;
    uint64_t arrive_ns, sum;
    struct wire_frame frame;
    struct endpoint *from; // NULL: has ended
    uint32_t from_id;
    bool tampered;
    uint8_t *copy;
    struct region *region;
    const uint8_t *payload;
    char why[160];
};

struct link { // one side of a connection
    struct endpoint *self;
    struct link *twin; // NULL: closed or down on the other side
    uint32_t id, peer;
    struct event *first, **last; // what comes in, in order
    uint64_t busy_until_ns;      // arrival of the last one
    bool over;                   // closed here, or its COMM_DOWN was handed out
};

struct endpoint {
    struct comm comm; // first: the ops cast back
    struct sim_net *net;
    struct endpoint *next;
    char address[COMM_ADDRESS_MAX];
    uint32_t id;
    void *owner;
    struct link **links; // by id
    uint32_t link_count, link_capacity;
    struct event *handed; // out by next(), not released
    uint32_t slow;
    bool muted;
};

struct sim_net {
    struct sim_net_options o;
    struct endpoint *endpoints;
    struct region *regions;
    uint32_t frames;
};

static struct endpoint *endpoint_of(struct comm *comm)
{
    return (struct endpoint *)comm;
}

// ---- Reserved memory ----

static struct region *region_of(struct sim_net *net, const void *payload, size_t bytes)
{
    const uint8_t *at = payload;
    for (struct region *r = net->regions; r; r = r->next)
        if (at >= r->memory && at + bytes <= r->memory + r->bytes)
            return r;
    return NULL;
}

static void region_free(struct sim_net *net, struct region *region)
{
    for (struct region **at = &net->regions; *at; at = &(*at)->next) {
        if (*at != region)
            continue;
        *at = region->next;
        bg_free(region->frozen);
        bg_free(region->block);
        bg_free(region);
        return;
    }
}

static void region_unread(struct sim_net *net, struct region *region)
{
    region->readers--;
    if (!region->readers && (!region->owner || region->dropped))
        region_free(net, region);
}

static bg_status net_reserve(struct comm *comm, size_t bytes, struct bg_error *err, void **memory)
{
    (void)err;
    struct endpoint *e = endpoint_of(comm);
    struct region *r = bg_alloc(sizeof *r);
    r->block = bg_alloc(bytes + 64);
    r->memory = (uint8_t *)(((uintptr_t)r->block + 63) / 64 * 64);
    r->bytes = bytes;
    r->owner = e;
    r->next = e->net->regions;
    e->net->regions = r;
    *memory = r->memory;
    return BG_OK;
}

// ---- Events ----

static struct sim_delivery delivery_of(const struct endpoint *to, const struct event *event)
{
    return (struct sim_delivery){.from = event->from ? event->from->owner : NULL,
                                 .to = to->owner,
                                 .from_id = event->from_id,
                                 .to_id = to->id,
                                 .frame = &event->frame,
                                 .payload = event->payload};
}

static void check_bytes(struct endpoint *to, const struct event *event, const char *when)
{
    const struct sim_watcher *watcher = &to->net->o.watcher;
    if (!event->region || event->tampered || !watcher->changed)
        return;
    if (bg_xxh64(event->payload, (size_t)event->frame.bytes) == event->sum)
        return;
    struct sim_delivery d = delivery_of(to, event);
    watcher->changed(watcher->arg, &d, when);
}

static void event_free(struct sim_net *net, struct event *event)
{
    if (event->region)
        region_unread(net, event->region);
    if (event->kind == COMM_FRAME)
        net->frames--;
    bg_free(event->copy);
    bg_free(event);
}

static struct event *event_make(struct sim_net *net, struct endpoint *from, enum comm_event_kind kind)
{
    struct event *event = bg_alloc(sizeof *event);
    event->kind = kind;
    event->from = from;
    event->from_id = from ? from->id : 0;
    if (kind == COMM_FRAME)
        net->frames++;
    return event;
}

// To the other side of `link`, after what is under way there already.
static void push(struct link *link, struct event *event, uint64_t delay_ns)
{
    struct sim_net *net = link->self->net;
    uint64_t arrive = *net->o.now_ns + delay_ns;
    event->arrive_ns = arrive > link->busy_until_ns ? arrive : link->busy_until_ns;
    link->busy_until_ns = event->arrive_ns;
    *link->last = event;
    link->last = &event->next;
}

static uint64_t latency(struct sim_net *net, const struct endpoint *from)
{
    uint64_t ns = sim_random_time(&net->o.random, net->o.latency_ns);
    return from && from->slow > 1 ? ns * from->slow : ns;
}

// The other side finds the link down, behind everything that was sent before.
static void hang_up(struct link *link, const char *why)
{
    struct link *twin = link->twin;
    if (!twin)
        return;
    struct event *event = event_make(link->self->net, link->self, COMM_DOWN);
    snprintf(event->why, sizeof event->why, "%s", why);
    push(twin, event, latency(link->self->net, NULL));
    twin->twin = NULL;
    link->twin = NULL;
}

// Both sides find it down.
static void cut(struct link *link, const char *there, const char *here)
{
    hang_up(link, there);
    struct event *down = event_make(link->self->net, NULL, COMM_DOWN);
    snprintf(down->why, sizeof down->why, "%s", here);
    push(link, down, latency(link->self->net, NULL));
}

// ---- Links ----

static struct link *link_make(struct endpoint *e, uint32_t peer)
{
    if (e->link_count == e->link_capacity) {
        e->link_capacity = e->link_capacity ? 2 * e->link_capacity : 16;
        e->links = bg_realloc_array(e->links, e->link_capacity, sizeof *e->links);
    }
    struct link *link = bg_alloc(sizeof *link);
    link->self = e;
    link->id = e->link_count;
    link->peer = peer;
    link->last = &link->first;
    e->links[e->link_count++] = link;
    return link;
}

static struct link *link_of(struct comm *comm, uint32_t id)
{
    struct endpoint *e = endpoint_of(comm);
    BG_ASSERT(id < e->link_count);
    return e->links[id];
}

static void link_empty(struct link *link)
{
    while (link->first) {
        struct event *next = link->first->next;
        event_free(link->self->net, link->first);
        link->first = next;
    }
    link->last = &link->first;
}

static const char *net_address(struct comm *comm)
{
    return endpoint_of(comm)->address;
}

static bg_status net_connect(struct comm *comm, uint32_t peer, const char *address, struct bg_error *err, uint32_t *id)
{
    struct endpoint *e = endpoint_of(comm), *other = e->net->endpoints;
    while (other && (strcmp(other->address, address) != 0 || other->muted))
        other = other->next;
    if (!other && !e->muted)
        return bg_fail(err, BG_NOT_FOUND, "connecting to %s: nobody listens there", address);
    struct link *link = link_make(e, peer);
    *id = link->id;
    if (e->muted)
        return BG_OK;
    link->twin = link_make(other, COMM_UNKNOWN);
    link->twin->twin = link;
    push(link->twin, event_make(e->net, e, COMM_UP), latency(e->net, e));
    return BG_OK;
}

static void net_name(struct comm *comm, uint32_t link, uint32_t peer)
{
    link_of(comm, link)->peer = peer;
}

static void net_close(struct comm *comm, uint32_t id)
{
    struct link *link = link_of(comm, id);
    link->over = true;
    if (!endpoint_of(comm)->muted)
        hang_up(link, "closed by the peer");
    link_empty(link);
}

static void corrupt(struct sim_net *net, struct event *event)
{
    event->tampered = true;
    if (!event->frame.bytes) {
        event->frame.check ^= 1u << sim_random_below(&net->o.random, 32);
        return;
    }
    if (!event->copy) {
        event->copy = bg_alloc((size_t)event->frame.bytes);
        memcpy(event->copy, event->payload, (size_t)event->frame.bytes);
        event->payload = event->copy;
    }
    event->copy[sim_random_below(&net->o.random, (uint32_t)event->frame.bytes)] ^=
        (uint8_t)(1u << sim_random_below(&net->o.random, 8));
}

static bg_status net_send(struct comm *comm, uint32_t id, const struct wire_frame *frame, const void *payload,
                          size_t bytes, struct bg_error *err)
{
    (void)err;
    struct endpoint *e = endpoint_of(comm);
    struct link *link = link_of(comm, id);
    if (e->muted || link->over || !link->twin)
        return BG_OK;
    struct sim_net *net = e->net;
    struct event *event = event_make(net, e, COMM_FRAME);
    event->frame = *frame;
    event->frame.bytes = bytes;
    event->frame.check = wire_check(payload, bytes);
    event->frame.from = comm->self;
    event->payload = payload;
    event->region = bytes ? region_of(net, payload, bytes) : NULL;
    if (event->region) {
        event->region->readers++;
        event->sum = bg_xxh64(payload, bytes);
    } else if (bytes) {
        event->copy = bg_alloc(bytes);
        memcpy(event->copy, payload, bytes);
        event->payload = event->copy;
    }
    comm->counts.frames_sent++;
    comm->counts.bytes_sent += bytes;
    uint64_t delay_ns = latency(net, e);
    struct sim_delivery d = delivery_of(link->twin->self, event);
    d.from = e->owner;
    enum sim_fate fate = net->o.watcher.fate ? net->o.watcher.fate(net->o.watcher.arg, &d, &delay_ns) : SIM_DELIVER;
    if (fate == SIM_DROP || e->muted || !link->twin) { // dropped, or this send was the fatal instant of an end
        event_free(net, event);
    } else if (fate == SIM_CUT) {
        event_free(net, event);
        cut(link, "the link broke", "the link broke");
    } else {
        if (fate == SIM_CORRUPT)
            corrupt(net, event);
        push(link->twin, event, delay_ns);
    }
    return BG_OK;
}

// ---- What arrives ----

uint64_t sim_net_arrival(const struct comm *comm)
{
    const struct endpoint *e = (const struct endpoint *)comm;
    uint64_t arrival = UINT64_MAX;
    for (uint32_t i = 0; i < e->link_count; i++) {
        const struct link *link = e->links[i];
        if (!link->over && link->first && link->first->arrive_ns < arrival)
            arrival = link->first->arrive_ns;
    }
    return arrival;
}

// One of the links whose next event is there.
static struct link *arrived(struct endpoint *e)
{
    struct link *chosen = NULL;
    uint32_t count = 0;
    for (uint32_t i = 0; i < e->link_count; i++) {
        struct link *link = e->links[i];
        if (link->over || !link->first || link->first->arrive_ns > *e->net->o.now_ns)
            continue;
        count++;
        if (count == 1 || sim_random_below(&e->net->o.random, count) == 0)
            chosen = link;
    }
    return chosen;
}

static bg_status net_next(struct comm *comm, struct bg_error *err, struct comm_event *out)
{
    (void)err;
    struct endpoint *e = endpoint_of(comm);
    *out = (struct comm_event){.kind = COMM_NOTHING};
    struct link *link = e->muted ? NULL : arrived(e);
    if (!link)
        return BG_OK;
    struct event *event = link->first;
    link->first = event->next;
    if (!link->first)
        link->last = &link->first;
    *out = (struct comm_event){.kind = event->kind, .link = link->id, .peer = link->peer};
    if (event->kind == COMM_FRAME) {
        out->frame = event->frame;
        out->payload = event->payload;
        out->handle = event;
        event->next = e->handed;
        e->handed = event;
        comm->counts.frames_received++;
        comm->counts.bytes_received += event->frame.bytes;
        struct sim_delivery d = delivery_of(e, event);
        if (e->net->o.watcher.delivered)
            e->net->o.watcher.delivered(e->net->o.watcher.arg, &d, &out->frame);
        check_bytes(e, event, "delivered");
        return BG_OK;
    }
    if (event->kind == COMM_DOWN) {
        memcpy(out->why, event->why, sizeof out->why);
        link->over = true;
    } else if (link->peer == COMM_UNKNOWN && link->twin) { // somebody connected: answer
        push(link->twin, event_make(e->net, e, COMM_UP), latency(e->net, e));
    }
    event_free(e->net, event);
    return BG_OK;
}

static void net_release(struct comm *comm, struct comm_event *event)
{
    struct endpoint *e = endpoint_of(comm);
    struct event **at = &e->handed;
    while (*at && *at != event->handle)
        at = &(*at)->next;
    struct event *found = *at;
    BG_ASSERT(found); // handed out, and not released yet
    check_bytes(e, found, "released");
    *at = found->next;
    event_free(e->net, found);
    event->handle = NULL;
    event->payload = NULL;
}

static void net_wait(struct comm *comm, uint64_t timeout_ns)
{
    (void)comm;
    (void)timeout_ns;
}

// Whoever has an event that points into a region learns that its bytes are going away.
static void warn_readers(const struct endpoint *e, const struct event *event, const struct region *region)
{
    const struct sim_watcher *watcher = &e->net->o.watcher;
    for (; event; event = event->next) {
        if (event->region != region || !watcher->changed)
            continue;
        struct sim_delivery d = delivery_of(e, event);
        watcher->changed(watcher->arg, &d, "unreserved");
    }
}

static void net_unreserve(struct comm *comm, void *memory)
{
    struct sim_net *net = endpoint_of(comm)->net;
    if (!memory)
        return;
    struct region *region = net->regions;
    while (region && region->memory != memory)
        region = region->next;
    BG_ASSERT(region && !region->dropped);
    region->dropped = true;
    for (struct endpoint *e = net->endpoints; region->readers && !region->owner->muted && e; e = e->next) {
        warn_readers(e, e->handed, region);
        for (uint32_t i = 0; i < e->link_count; i++)
            warn_readers(e, e->links[i]->first, region);
    }
    if (!region->readers)
        region_free(net, region);
}

// ---- Ends ----

void sim_net_mute(struct comm *comm)
{
    struct endpoint *e = endpoint_of(comm);
    e->muted = true;
    for (struct region *r = e->net->regions; r; r = r->next) {
        if (r->owner != e || !r->readers)
            continue;
        r->frozen = bg_alloc(r->bytes);
        memcpy(r->frozen, r->memory, r->bytes);
    }
}

// Events that point to an endpoint that is about to go.
static void forget(struct event *event, const struct endpoint *gone)
{
    for (; event; event = event->next)
        if (event->from == gone)
            event->from = NULL;
}

static void net_destroy(struct comm *comm)
{
    struct endpoint *e = endpoint_of(comm);
    struct sim_net *net = e->net;
    for (struct region *r = net->regions; r; r = r->next)
        if (r->frozen && r->owner == e) {
            memcpy(r->memory, r->frozen, r->bytes);
            bg_free(r->frozen);
            r->frozen = NULL;
        }
    while (e->handed) {
        struct event *next = e->handed->next;
        event_free(net, e->handed);
        e->handed = next;
    }
    for (uint32_t i = 0; i < e->link_count; i++) {
        hang_up(e->links[i], "process ended");
        link_empty(e->links[i]);
    }
    struct endpoint **at = &net->endpoints;
    while (*at != e)
        at = &(*at)->next;
    *at = e->next;
    for (struct endpoint *other = net->endpoints; other; other = other->next) {
        forget(other->handed, e);
        for (uint32_t i = 0; i < other->link_count; i++)
            forget(other->links[i]->first, e);
    }
    for (struct region *r = net->regions, *next; r; r = next) {
        next = r->next;
        if (r->owner != e)
            continue;
        r->owner = NULL;
        if (!r->readers)
            region_free(net, r);
    }
    for (uint32_t i = 0; i < e->link_count; i++)
        bg_free(e->links[i]);
    bg_free(e->links);
    bg_free(e);
}

void sim_net_silence(struct comm *comm, const void *only, const char *why)
{
    struct endpoint *e = endpoint_of(comm);
    for (uint32_t i = 0; i < e->link_count; i++) {
        struct link *link = e->links[i];
        if (link->over || !link->twin || (only && link->twin->self->owner != only))
            continue;
        cut(link, why, "closed by the peer");
    }
}

void sim_net_slow(struct comm *comm, uint32_t factor)
{
    endpoint_of(comm)->slow = factor;
}

// ---- The network ----

static const struct comm_ops net_ops = {
    .address = net_address,
    .connect = net_connect,
    .name = net_name,
    .close = net_close,
    .send = net_send,
    .next = net_next,
    .release = net_release,
    .wait = net_wait,
    .reserve = net_reserve,
    .unreserve = net_unreserve,
    .destroy = net_destroy,
};

struct sim_net *sim_net_create(const struct sim_net_options *options)
{
    struct sim_net *net = bg_alloc(sizeof *net);
    net->o = *options;
    return net;
}

void sim_net_destroy(struct sim_net *net)
{
    BG_ASSERT(!net->endpoints);
    while (net->regions)
        region_free(net, net->regions);
    bg_free(net);
}

struct comm *sim_net_endpoint(struct sim_net *net, struct bg_env *env, const char *address, uint32_t id, void *owner)
{
    struct endpoint *e = bg_alloc(sizeof *e);
    e->comm = (struct comm){.ops = &net_ops, .env = env, .self = COMM_UNKNOWN};
    e->net = net;
    e->id = id;
    e->owner = owner;
    snprintf(e->address, sizeof e->address, "%s", address);
    struct endpoint **at = &net->endpoints;
    while (*at)
        at = &(*at)->next;
    *at = e;
    return &e->comm;
}

void sim_net_held(const struct comm *comm, uint32_t *reservations, uint32_t *events)
{
    const struct endpoint *e = (const struct endpoint *)comm;
    *reservations = *events = 0;
    for (const struct region *r = e->net->regions; r; r = r->next)
        if (r->owner == e && !r->dropped)
            ++*reservations;
    for (const struct event *event = e->handed; event; event = event->next)
        ++*events;
}

void sim_net_left(const struct sim_net *net, uint32_t *orphans, uint32_t *endpoints, uint32_t *frames)
{
    *orphans = *endpoints = 0;
    *frames = net->frames;
    for (const struct region *r = net->regions; r; r = r->next)
        ++*orphans;
    for (const struct endpoint *e = net->endpoints; e; e = e->next)
        ++*endpoints;
}
