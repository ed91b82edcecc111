// The router: OpenAI's API in front of several `brigade serve`. A text request is asked for with its seed and as token
// ids; when the replica that answers it dies, stalls or hands over, another one goes on after the tokens that are
// there, and the client sees one stream with the same bytes. libmicrohttpd in front, libcurl behind, one thread, one
// epoll.
#ifndef SERVE_ROUTE_ROUTE_H
#define SERVE_ROUTE_ROUTE_H

#include "base/env.h"
#include "base/str.h"

struct route_options {
    const char *host; // "127.0.0.1"
    uint16_t port;    // 0: any
    const char *const *keys;
    uint32_t key_count;          // 0: no key is asked for; the caller sees to it that host is loopback then
    const char *const *replicas; // URLs
    uint32_t replica_count;
    const char *replica_file;  // one URL a line, # comments; read again when it changes. NULL: none
    unsigned (*rereads)(void); // how often it shall have been read again whether it changed or not; NULL: never
    void (*stopping)(void);    // called when it was asked to stop, before it drains; NULL: nothing
    const char *digest;        // of the model that replicas must serve; NULL: what the first one serves
    const char *replica_key;   // NULL: none
    const char *replica_ca;    // PEM file of who signs the certificates of https:// replicas; NULL: the system's
    const char *cors;          // Access-Control-Allow-Origin; NULL: none
    const char *tls_certificate, *tls_key; // PEM texts; NULL: plain HTTP
    uint32_t queue_max;                    // requests that may wait here; beyond: 429 (default 256)
    uint32_t wait_ms;         // most time without a replica, for new requests and broken ones (default 30000)
    uint32_t stall_ms;        // a replica that answers no probe for so long is taken for dead (default 400)
    uint32_t probe_ms;        // between probes of a replica that is well (default 100)
    uint32_t notice_ms;       // what a replica that drains has left (default 30000)
    uint32_t grace_ms;        // to finish requests when asked to stop (default 30000)
    double bandwidth;         // bytes a second between replicas, until it is measured (default 125e6)
    double wait_target_s;     // queueing at a replica that credits aim below (default 0.05)
    size_t body_max;          // default 4 MiB
    uint32_t connections_max; // default 4096
    void (*say)(void *arg, const char *line); // what happens to replicas; NULL: nobody listens
    void *arg;
};

struct route;
BG_MUST_USE bg_status route_create(struct bg_env *env, const struct route_options *options, struct bg_error *err,
                                   struct route **route);
uint16_t route_port(const struct route *route);
// Until the environment is asked to stop and what was open then is answered, or the grace period is over.
void route_run(struct route *route);
void route_destroy(struct route *route);

#endif
