// What the server's front and the router's share: who may ask, connections that wait with their socket watched, peers
// that vanish.
#ifndef SERVE_HTTP_DOOR_H
#define SERVE_HTTP_DOOR_H

#include <microhttpd.h>
#include <stdbool.h>
#include <stdint.h>

struct door_keys { // hashes; count 0: nobody is asked
    uint8_t (*hash)[32];
    uint32_t count;
};
void door_keys_init(struct door_keys *keys, const char *const *texts, uint32_t count);
void door_keys_fini(struct door_keys *keys);
// The header Authorization: Bearer KEY, or, where there is none of that form, for the page at / the query ?key=KEY;
// /health is open.
bool door_may_ask(const struct door_keys *keys, struct MHD_Connection *connection, const char *path);

// libmicrohttpd does not look at suspended connections: their sockets are in `epoll` meanwhile, and `owner` comes back
// once, when the client has gone.
struct door_wait {
    struct MHD_Connection *connection;
    int fd;
    bool suspended, watched;
};
struct door_wait door_wait_of(struct MHD_Connection *connection);
void door_suspend(struct door_wait *wait, int epoll, void *owner);
void door_resume(struct door_wait *wait);
void door_forget(struct door_wait *wait, int epoll); // before the connection closes

// MHD_OPTION_NOTIFY_CONNECTION: a peer that vanished without a word is found out within a minute.
void door_on_connection(void *arg, struct MHD_Connection *connection, void **state,
                        enum MHD_ConnectionNotificationCode code);
void door_raise_file_limit(void); // as many files as this process may have open: a connection is one

#endif
