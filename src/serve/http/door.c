// Keys are compared by hash, all of them and in constant time: how much of one is right never shows.
#include "serve/http/door.h"

#include "base/hash.h"
#include "base/mem.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/crypto.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>

enum { SILENT_MS = 60000 }; // a peer that acknowledges nothing for so long is gone

static void hash_of(const char *text, uint8_t hash[32])
{
    char hex[65];
    bg_sha256_hex(text, strlen(text), hex);
    bg_sha256_to_bytes(hex, hash);
}

void door_keys_init(struct door_keys *keys, const char *const *texts, uint32_t count)
{
    *keys = (struct door_keys){bg_alloc_array(count + 1u, sizeof *keys->hash), count};
    for (uint32_t i = 0; i < count; i++)
        hash_of(texts[i], keys->hash[i]);
}

void door_keys_fini(struct door_keys *keys)
{
    bg_free(keys->hash);
    *keys = (struct door_keys){0};
}

bool door_may_ask(const struct door_keys *keys, struct MHD_Connection *connection, const char *path)
{
    uint8_t hash[32];
    int good = 0;
    if (keys->count == 0 || strcmp(path, "/health") == 0)
        return true;
    const char *key = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_AUTHORIZATION);
    if (key && strncmp(key, "Bearer ", 7) == 0)
        key += 7;
    else
        key = strcmp(path, "/") == 0 ? MHD_lookup_connection_value(connection, MHD_GET_ARGUMENT_KIND, "key") : NULL;
    if (!key)
        return false;
    hash_of(key, hash);
    for (uint32_t i = 0; i < keys->count; i++)
        good |= CRYPTO_memcmp(hash, keys->hash[i], sizeof hash) == 0;
    return good != 0;
}

struct door_wait door_wait_of(struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    return (struct door_wait){.connection = connection, .fd = info ? info->connect_fd : -1};
}

void door_suspend(struct door_wait *wait, int epoll, void *owner)
{
    struct epoll_event event = {.events = EPOLLRDHUP | EPOLLONESHOT, .data.ptr = owner};
    if (wait->suspended)
        return;
    MHD_suspend_connection(wait->connection);
    wait->suspended = true;
    if (epoll_ctl(epoll, wait->watched ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, wait->fd, &event) == 0)
        wait->watched = true;
}

void door_resume(struct door_wait *wait)
{
    if (!wait->suspended)
        return;
    wait->suspended = false;
    MHD_resume_connection(wait->connection);
}

void door_forget(struct door_wait *wait, int epoll)
{
    if (wait->watched)
        epoll_ctl(epoll, EPOLL_CTL_DEL, wait->fd, NULL);
    *wait = (struct door_wait){.fd = -1};
}

void door_on_connection(void *arg, struct MHD_Connection *connection, void **state,
                        enum MHD_ConnectionNotificationCode code)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    const int on = 1, idle_s = SILENT_MS / 2000, unanswered_ms = SILENT_MS;
    (void)arg;
    (void)state;
    if (code != MHD_CONNECTION_NOTIFY_STARTED || !info)
        return;
    const int fd = info->connect_fd;
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &unanswered_ms, sizeof unanswered_ms);
}

void door_raise_file_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}
