// Shipping: while a request still draws on a machine that will be taken away, its keys and values are fetched from
// there and laid into the prefix cache of another; then it goes on over there. Whatever fails on the way, it goes on
// all the same and its tokens are computed again. What was measured on the way tells whether shipping pays for the next
// one.
#include "serve/route/route_int.h"

#include "base/mem.h"

#include <string.h>

static double blend(double old, double fresh)
{
    return old > 0 ? 0.7 * old + 0.3 * fresh : fresh;
}

void ship_begin(struct branch *b, uint64_t now)
{
    struct route *route = b->answer->visit->route;
    char *body = body_write(b, now);
    b->shipping = true;
    b->ship_began_ns = now;
    b->ship = transfer_start(route, TRANSFER_SHIP, b->transfer->replica, b, "POST", "/kv/save", body, strlen(body),
                             route->o.wait_ms);
}

// They are here: on to who shall have them.
static bool hand_on(struct branch *b, struct transfer *t)
{
    struct route *route = t->route;
    struct replica *to = replica_choose(route, b, false);
    const size_t size = t->in.size;
    if (!to || to == t->replica || size == 0)
        return false;
    char *bytes = t->in.data;
    t->in = (struct bg_str){0};
    b->prefer = to->id;
    b->ship = transfer_start(route, TRANSFER_SHIP, to, b, "POST", "/kv/restore", bytes, size, route->o.wait_ms);
    b->ship_bytes = size;
    return true;
}

static void note(const struct branch *b, const struct transfer *t)
{
    struct route *route = t->route;
    const double s = (double)(env_now_ns(route->env) - b->ship_began_ns) * 1e-9;
    json_t *o = json_loadb(bg_str_text(&t->in), t->in.size, 0, NULL);
    const double tokens = json_number_value(json_object_get(o, "n_restored"));
    json_decref(o);
    if (!(tokens > 0))
        return;
    route->shipped++;
    route->shipped_bytes += b->ship_bytes;
    route->ship_bandwidth = blend(route->ship_bandwidth, (double)b->ship_bytes / (s > 1e-6 ? s : 1e-6));
    route->ship_bytes_token = blend(route->ship_bytes_token, (double)b->ship_bytes / tokens);
}

void ship_came(struct transfer *t)
{
    struct branch *b = t->owner;
    const bool good = t->code == CURLE_OK && replica_is_ours(t) && t->status == 200,
               there = b->prefer == t->replica->id;
    bool on_its_way = false;
    b->ship = NULL;
    if (good && there)
        note(b, t);
    else if (good)
        on_its_way = hand_on(b, t);
    else
        b->prefer = ROUTE_NOBODY;
    transfer_end(t);
    if (!on_its_way)
        relay_leave(b, RELAY_MOVES);
}
