// Byte strings by id with a hash back from bytes to id, and the spellings that tokenizer files use: GPT-2's printable
// characters for bytes, UTF-8, and <0xNN>.
//
// A piece_set owns copies of its bytes; ids may have holes. Findable are only the ids that were indexed, so control
// tokens can be stored without ever matching text.
#include "model/tokenizer_int.h"

#include "base/hash.h"
#include "base/mem.h"

#include <string.h>

int32_t piece_set_find(const struct piece_set *set, const char *bytes, size_t size)
{
    if (set->slot_count == 0)
        return -1;
    uint32_t mask = set->slot_count - 1;
    for (uint32_t at = (uint32_t)bg_xxh64(bytes, size) & mask; set->slots[at] != 0; at = (at + 1) & mask) {
        const struct piece_span *span = &set->spans[set->slots[at] - 1];
        if (span->size == size && (size == 0 || memcmp(set->data + span->offset, bytes, size) == 0))
            return (int32_t)(set->slots[at] - 1);
    }
    return -1;
}

static void insert(struct piece_set *set, uint32_t id)
{
    uint32_t mask = set->slot_count - 1;
    size_t size;
    const char *bytes = piece_set_get(set, (int32_t)id, &size);
    uint32_t at = (uint32_t)bg_xxh64(bytes, size) & mask;
    while (set->slots[at] != 0)
        at = (at + 1) & mask;
    set->slots[at] = id + 1;
}

int32_t piece_set_index(struct piece_set *set, uint32_t id)
{
    size_t size;
    const char *bytes = piece_set_get(set, (int32_t)id, &size);
    int32_t same = piece_set_find(set, bytes, size);
    if (same >= 0)
        return same;
    if (set->slot_count < 2 * (set->slots_used + 1)) {
        uint32_t *old = set->slots;
        uint32_t old_count = set->slot_count;
        set->slot_count = old_count ? 2 * old_count : 1024;
        set->slots = bg_alloc_array(set->slot_count, sizeof *set->slots);
        for (uint32_t i = 0; i < old_count; i++)
            if (old[i] != 0)
                insert(set, old[i] - 1);
        bg_free(old);
    }
    insert(set, id);
    set->slots_used++;
    return -1;
}

void piece_set_put(struct piece_set *set, uint32_t id, const char *bytes, size_t size)
{
    if (id >= set->span_capacity) {
        uint32_t capacity = set->span_capacity ? set->span_capacity : 256;
        while (capacity <= id)
            capacity *= 2;
        set->spans = bg_realloc_array(set->spans, capacity, sizeof *set->spans);
        memset(set->spans + set->span_capacity, 0, (capacity - set->span_capacity) * sizeof *set->spans);
        set->span_capacity = capacity;
    }
    if (set->capacity - set->size < size) {
        size_t capacity = set->capacity ? set->capacity : 4096;
        while (capacity - set->size < size)
            capacity *= 2;
        set->data = bg_realloc_array(set->data, capacity, 1);
        set->capacity = capacity;
    }
    if (size > 0)
        memcpy(set->data + set->size, bytes, size);
    set->spans[id] = (struct piece_span){.offset = set->size, .size = (uint32_t)size, .present = true};
    set->size += size;
    if (id >= set->count)
        set->count = id + 1;
}

bool piece_set_has(const struct piece_set *set, int32_t id)
{
    return id >= 0 && (uint32_t)id < set->count && set->spans[id].present;
}

const char *piece_set_get(const struct piece_set *set, int32_t id, size_t *size)
{
    *size = 0;
    if (!piece_set_has(set, id) || set->spans[id].size == 0)
        return "";
    *size = set->spans[id].size;
    return set->data + set->spans[id].offset;
}

void piece_set_fini(struct piece_set *set)
{
    bg_free(set->data);
    bg_free(set->spans);
    bg_free(set->slots);
    *set = (struct piece_set){0};
}

// GPT-2 shows the 188 printable Latin-1 bytes as themselves and the other 68, in order, as U+0100 to U+0143.
static uint32_t byte_code(uint8_t byte)
{
    if (byte <= 0x20)
        return 0x100u + byte;
    if (byte >= 0x7f && byte <= 0xa0)
        return 0x121u + (byte - 0x7fu);
    return byte == 0xad ? 0x143 : byte;
}

static int code_byte(uint32_t code) // -1: stands for no byte
{
    if (code >= 0x100 && code <= 0x120)
        return (int)(code - 0x100);
    if (code >= 0x121 && code <= 0x142)
        return (int)(code - 0x121 + 0x7f);
    if (code == 0x143)
        return 0xad;
    return code <= 0xff && byte_code((uint8_t)code) == code ? (int)code : -1;
}

void byte_spell(const char *bytes, size_t size, struct bg_str *out)
{
    for (size_t i = 0; i < size; i++)
        utf8_append(out, byte_code((uint8_t)bytes[i]));
}

bool byte_unspell(const char *piece, size_t size, struct bg_str *out)
{
    for (size_t i = 0; i < size;) {
        size_t length = utf8_length(piece + i, size - i);
        int byte = length ? code_byte(utf8_decode(piece + i, length)) : -1;
        if (byte < 0)
            return false;
        bg_str_add_bytes(out, &(char){(char)byte}, 1);
        i += length;
    }
    return true;
}

size_t utf8_length(const char *text, size_t size)
{
    const uint8_t *s = (const uint8_t *)text;
    if (size == 0)
        return 0;
    if (s[0] < 0x80)
        return 1;
    size_t length = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
    if (s[0] < 0xc2 || s[0] > 0xf4 || size < length)
        return 0;
    for (size_t i = 1; i < length; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    bool overlong = (s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xf0 && s[1] < 0x90);
    bool beyond = (s[0] == 0xed && s[1] > 0x9f) || (s[0] == 0xf4 && s[1] > 0x8f);
    return overlong || beyond ? 0 : length;
}

uint32_t utf8_decode(const char *text, size_t length)
{
    const uint8_t *s = (const uint8_t *)text;
    if (length == 1)
        return s[0];
    uint32_t code = s[0] & (0x7fu >> length);
    for (size_t i = 1; i < length; i++)
        code = code << 6 | (s[i] & 0x3fu);
    return code;
}

void utf8_append(struct bg_str *out, uint32_t code)
{
    uint8_t bytes[4];
    size_t size = 0;
    if (code < 0x80) {
        bytes[size++] = (uint8_t)code;
    } else if (code < 0x800) {
        bytes[size++] = (uint8_t)(0xc0 | code >> 6);
    } else if (code < 0x10000) {
        bytes[size++] = (uint8_t)(0xe0 | code >> 12);
        bytes[size++] = (uint8_t)(0x80 | (code >> 6 & 0x3f));
    } else {
        bytes[size++] = (uint8_t)(0xf0 | code >> 18);
        bytes[size++] = (uint8_t)(0x80 | (code >> 12 & 0x3f));
        bytes[size++] = (uint8_t)(0x80 | (code >> 6 & 0x3f));
    }
    if (code >= 0x80)
        bytes[size++] = (uint8_t)(0x80 | (code & 0x3f));
    bg_str_add_bytes(out, bytes, size);
}

int piece_byte_value(const char *piece, size_t size)
{
    static const char digits[] = "0123456789ABCDEF";
    if (size != 6 || memcmp(piece, "<0x", 3) != 0 || piece[5] != '>')
        return -1;
    const char *high = memchr(digits, piece[3], 16);
    const char *low = memchr(digits, piece[4], 16);
    return high && low ? (int)(16 * (high - digits) + (low - digits)) : -1;
}
