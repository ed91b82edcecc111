// SHA-256 (OpenSSL) for identities, XXH3 (xxHash) for checks in flight.
#ifndef BASE_HASH_H
#define BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

struct bg_sha256 {
    void *state;
};
void bg_sha256_init(struct bg_sha256 *hash);
void bg_sha256_update(struct bg_sha256 *hash, const void *bytes, size_t size);
void bg_sha256_final(struct bg_sha256 *hash, char hex[65]); // lower case; frees the state
void bg_sha256_hex(const void *bytes, size_t size, char hex[65]);
// Between the two ways to write one.
void bg_sha256_to_bytes(const char hex[65], uint8_t bytes[32]);
void bg_sha256_from_bytes(const uint8_t bytes[32], char hex[65]);
uint64_t bg_xxh64(const void *bytes, size_t size); // XXH3 64

#endif
