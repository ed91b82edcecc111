// Corpus files: packed or not, lines of JSON or text, under each UTF-8 policy. The first byte chooses. Pieces are
// bounded, never empty, and valid UTF-8 wherever the policy promises it.
#include "model/data_int.h"

#include "base/assert.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct check {
    struct data_splitter splitter;
    bool valid;
    size_t documents, bytes;
};

static bg_status take_piece(void *arg, const char *text, size_t size, bool first, struct bg_error *err)
{
    struct check *check = arg;
    size_t grown = check->valid && !check->splitter.jsonl ? 3 : 1; // U+FFFD for a byte
    BG_ASSERT(size > 0 && size <= grown * DATA_PIECE_MAX);
    BG_ASSERT(!check->valid || data_utf8_prefix(text, size) == size);
    BG_ASSERT(first || check->documents > 0);
    check->documents += first;
    check->bytes += size;
    return check->bytes < 64 << 20 ? BG_OK : bg_fail(err, BG_FULL, "enough of this bomb");
}

static bg_status take_bytes(void *arg, const uint8_t *bytes, size_t size, uint64_t consumed, struct bg_error *err)
{
    struct check *check = arg;
    (void)consumed;
    return data_splitter_feed(&check->splitter, bytes, size, err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const policies[] = {"keep", "error", "replace"};
    if (size == 0)
        return 0;
    unsigned choice = data[0];
    struct data_file file = {.path = "fuzz", .packing = (enum data_packing)(choice % 3), .jsonl = choice / 3 % 2 == 0};
    struct check check = {.splitter = {.path = "fuzz", .jsonl = file.jsonl, .fn = take_piece}};
    check.splitter.field = choice / 6 % 2 ? "text" : "a.b";
    check.splitter.utf8 = policies[choice / 12 % 3];
    check.splitter.arg = &check;
    check.valid = file.jsonl || choice / 12 % 3 > 0;
    struct bg_error err = {0};
    bg_status status = data_unpack(&file, data + 1, size - 1, take_bytes, &check, &err);
    if (status == BG_OK)
        status = data_splitter_end(&check.splitter, &err);
    BG_ASSERT(status == BG_OK || (err.status == status && err.text[0]));
    data_splitter_fini(&check.splitter);
    return 0;
}
