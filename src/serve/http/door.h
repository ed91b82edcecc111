// What the server's front and the router's share: listening, with TLS and CORS; who may ask; connections that wait with
// their socket watched; peers that vanish.
#ifndef SERVE_HTTP_DOOR_H
#define SERVE_HTTP_DOOR_H

#include "base/status.h"

#include <microhttpd.h>
#include <stdbool.h>
#include <stdint.h>

struct door_options {
    const char *host;              // an IPv4 address
    uint16_t port;                 // 0: any
    const char *certificate, *key; // PEM texts; NULL: plain HTTP
    uint32_t connections_max, idle_s;
    MHD_AccessHandlerCallback request;
    MHD_RequestCompletedCallback completed;
    void *arg; // of both
};
// The daemon runs on an epoll of its own (*epoll), which the caller watches. *port: where it listens.
BG_MUST_USE bg_status door_listen(const struct door_options *options, struct bg_error *err, struct MHD_Daemon **daemon,
                                  int *epoll, uint16_t *port);
// The header with which a server tells those who have a key what it serves: a router mixes no two such.
#define DOOR_DIGEST "X-Brigade-Model"
// What every answer has. cors: the origin whose pages may ask; NULL: none.
void door_headers(struct MHD_Response *response, const char *type, const char *cors);

struct door_keys { // hashes; count 0: nobody is asked
    uint8_t (*hash)[32];
    uint32_t count;
};
void door_keys_init(struct door_keys *keys, const char *const *texts, uint32_t count);
void door_keys_fini(struct door_keys *keys);
// The header Authorization: Bearer KEY, or, where there is none of that form, for the page at / the query ?key=KEY;
// /health is open. path NULL: whether the header is there and good, whatever is asked for.
bool door_may_ask(const struct door_keys *keys, struct MHD_Connection *connection, const char *path);

// libmicrohttpd does not look at suspended connections: their sockets are in `epoll` meanwhile, and `owner` comes back
// once, when the client has gone or says no more.
struct door_wait {
    struct MHD_Connection *connection;
    int fd;
    bool suspended, watched;
    bool may_half; // a client that only shuts down its sending half still gets its answer; false: it has gone
    bool half;     // it has
    bool whole;    // libmicrohttpd knows that the request has no more to read
};
struct door_wait door_wait_of(struct MHD_Connection *connection);
// False, once: let libmicrohttpd call again, which it does at once. It then knows that there is no more to read of a
// request; one suspended before that is read from when it goes on, and closed where the client says no more.
bool door_whole(struct door_wait *wait);
void door_suspend(struct door_wait *wait, int epoll, void *owner);
void door_resume(struct door_wait *wait);
// What `owner` came back with: true: the client has gone. One that closes looks like one that only says no more, until
// something is sent to it: it answers with a reset. So the latter is sent something that means nothing. begun: the
// answer's headers are queued, and the caller sees to that when the client is `half` now.
bool door_gone(struct door_wait *wait, int epoll, void *owner, uint32_t events, bool begun);
void door_forget(struct door_wait *wait, int epoll); // before the connection closes

#endif
