// SHA-256 through OpenSSL's EVP and XXH3 through xxHash. A failure of EVP means that the library itself is
// broken (no provider), which nothing above could mend: it asserts.
#include "base/hash.h"

#include "base/assert.h"

#include <openssl/evp.h>
#include <xxhash.h>

void bg_sha256_init(struct bg_sha256 *hash)
{
    EVP_MD_CTX *state = EVP_MD_CTX_new();
    BG_ASSERT(state && EVP_DigestInit_ex(state, EVP_sha256(), NULL) == 1);
    hash->state = state;
}

void bg_sha256_update(struct bg_sha256 *hash, const void *bytes, size_t size)
{
    BG_ASSERT(EVP_DigestUpdate(hash->state, bytes, size) == 1);
}

void bg_sha256_final(struct bg_sha256 *hash, char hex[65])
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned size = 0;
    BG_ASSERT(EVP_DigestFinal_ex(hash->state, digest, &size) == 1 && size == 32);
    EVP_MD_CTX_free(hash->state);
    hash->state = NULL;
    bg_sha256_from_bytes(digest, hex);
}

void bg_sha256_hex(const void *bytes, size_t size, char hex[65])
{
    struct bg_sha256 hash;
    bg_sha256_init(&hash);
    bg_sha256_update(&hash, bytes, size);
    bg_sha256_final(&hash, hex);
}

static unsigned digit_of(char c)
{
    return (unsigned)(c <= '9' ? c - '0' : c - 'a' + 10);
}

void bg_sha256_to_bytes(const char hex[65], uint8_t bytes[32])
{
    for (size_t i = 0; i < 32; i++)
        bytes[i] = (uint8_t)(digit_of(hex[2 * i]) << 4 | digit_of(hex[2 * i + 1]));
}

void bg_sha256_from_bytes(const uint8_t bytes[32], char hex[65])
{
    for (size_t i = 0; i < 32; i++) {
        hex[2 * i] = "0123456789abcdef"[bytes[i] >> 4];
        hex[2 * i + 1] = "0123456789abcdef"[bytes[i] & 15];
    }
    hex[64] = '\0';
}

uint64_t bg_xxh64(const void *bytes, size_t size)
{
    return XXH3_64bits(bytes, size);
}
