// Messages read back as they were written, byte for byte; every shorter or longer payload is refused, and so is what is
// out of bounds, with an error that names message and field; what every step sends allocates nothing.
#include "base/mem.h"
#include "wire/message.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

enum { ROOM = 8192 };

// Decodes and encodes again; BG_OK: *again holds what came out.
typedef bg_status (*again_fn)(const void *in, size_t size, struct bg_error *err, uint8_t *again, size_t *again_bytes);

#define AGAIN(name, fini)                                                                                              \
    static bg_status name##_again(const void *in, size_t size, struct bg_error *err, uint8_t *again, size_t *bytes)    \
    {                                                                                                                  \
        struct message_##name m;                                                                                       \
        bg_status status = message_##name##_decode(in, size, err, &m);                                                 \
        if (status)                                                                                                    \
            return status;                                                                                             \
        *bytes = message_##name##_encode(&m, again, ROOM);                                                             \
        fini;                                                                                                          \
        return BG_OK;                                                                                                  \
    }
AGAIN(hello, (void)0)
AGAIN(welcome, (void)0)
AGAIN(trouble, (void)0)
AGAIN(commit, (void)0)
AGAIN(task_done, (void)0)
AGAIN(report, message_fini(m.memory))
AGAIN(generation, message_fini(m.memory))
AGAIN(task, message_fini(m.memory))

static bg_status loss_again(const void *in, size_t size, struct bg_error *err, uint8_t *again, size_t *bytes)
{
    struct message_loss m;
    bg_status status = message_loss_decode(in, size, err, &m);
    if (status)
        return status;
    double losses[16];
    for (uint32_t i = 0; i < m.count; i++)
        losses[i] = message_double(m.losses, i);
    *bytes = message_loss_encode(m.first, m.count, losses, again, ROOM);
    return BG_OK;
}

static bg_status proof_again(const void *in, size_t size, struct bg_error *err, uint8_t *again, size_t *bytes)
{
    struct message_proof m;
    bg_status status = message_proof_decode(in, size, err, &m);
    if (status)
        return status;
    uint64_t sums[16];
    for (uint32_t u = 0; u < m.count; u++)
        sums[u] = message_u64(m.sums, u);
    *bytes = message_proof_encode(m.count, m.held, sums, again, ROOM);
    return BG_OK;
}

static bg_status vote_again(const void *in, size_t size, struct bg_error *err, uint8_t *again, size_t *bytes)
{
    struct message_vote m;
    bg_status status = message_vote_decode(in, size, err, &m);
    if (status)
        return status;
    double squares[16];
    for (uint32_t p = 0; p < m.count; p++)
        squares[p] = message_double(m.squares, p);
    *bytes = message_vote_encode(m.count, m.held, squares, m.computed, again, ROOM);
    return BG_OK;
}

// `bytes` (at an odd address) decode to what encodes to the same bytes; no other size does.
static void check(const char *name, const uint8_t *bytes, size_t size, again_fn again)
{
    static uint8_t odd[ROOM + 1], out[ROOM];
    assert_true(size > 0 && size < ROOM);
    memset(odd, 0, sizeof odd);
    memcpy(odd + 1, bytes, size);
    struct bg_error err = {0};
    size_t written = 0;
    assert_int_equal(again(odd + 1, size, &err, out, &written), BG_OK);
    assert_int_equal(written, size);
    assert_memory_equal(out, bytes, size);
    for (size_t other = 0; other <= size + 1; other++) {
        if (other == size)
            continue;
        err = (struct bg_error){0};
        assert_int_equal(again(odd + 1, other, &err, out, &written), BG_FORMAT);
        assert_ptr_equal(strstr(err.text, name), err.text);
    }
}

static struct message_commit a_commit(void)
{
    return (struct message_commit){.step = 12, .loss = 2.5, .norm = 1e-300, .clip = 0.1f};
}

static void small_messages(void **state)
{
    (void)state;
    uint8_t out[ROOM];
    struct message_hello hello = {
        .version = MESSAGE_VERSION, .member = 3, .token = 1ull << 40, .process = 77, .process_start = UINT64_MAX};
    hello.role = MESSAGE_SHADOW;
    memset(hello.signature, 0xab, sizeof hello.signature);
    snprintf(hello.address, sizeof hello.address, "@brigade-1");
    size_t size = message_hello_encode(&hello, out, MESSAGE_SMALL);
    check("HELLO", out, size, hello_again);
    assert_int_equal(message_hello_encode(&hello, out, size - 1), 0); // no room: nothing was written
    struct message_hello read;
    assert_int_equal(message_hello_decode(out, size, NULL, &read), BG_OK);
    assert_int_equal(read.process_start, UINT64_MAX);
    assert_string_equal(read.address, "@brigade-1");

    struct message_welcome welcome = {9};
    check("WELCOME", out, message_welcome_encode(&welcome, out, sizeof out), welcome_again);
    struct message_trouble trouble = {.kind = MESSAGE_FAILED, .peer = 2, .status = BG_FULL, .text = "disk full"};
    check("TROUBLE", out, message_trouble_encode(&trouble, out, sizeof out), trouble_again);
    struct message_commit commit = a_commit();
    check("COMMIT", out, message_commit_encode(&commit, out, sizeof out), commit_again);
    struct message_task_done done = {.id = 5, .evaluated = true, .hashed = true, .evaluation = {10, 99, 1.5, 2.5}};
    snprintf(done.directory, sizeof done.directory, "runs/a/checkpoints/step-10");
    check("TASK_DONE", out, message_task_done_encode(&done, out, sizeof out), task_done_again);
}

static void step_messages(void **state)
{
    (void)state;
    uint8_t out[ROOM];
    const double values[4] = {1.5, -0.0, 3e300, 4};
    const uint8_t held[4] = {1, 1, 0, 1};
    size_t loss = message_loss_encode(8, 4, values, out, sizeof out);
    check("LOSS", out, loss, loss_again);
    size_t vote = message_vote_encode(4, held, values, 7, out, sizeof out);
    check("VOTE", out, vote, vote_again);
    const uint64_t sums[4] = {1, UINT64_MAX, 5, 0x0123456789abcdef};
    uint8_t proof[ROOM];
    check("PROOF", proof, message_proof_encode(4, held, sums, proof, sizeof proof), proof_again);
    uint64_t before = bg_mem_count();
    struct message_vote read;
    assert_int_equal(message_vote_decode(out, vote, NULL, &read), BG_OK);
    assert_int_equal(bg_mem_count(), before);
    assert_int_equal(read.computed, 7);
    assert_true(message_double(read.squares, 0) == 1.5 && message_double(read.squares, 2) == 0);
    assert_int_equal(message_vote_encode(4, held, values, 7, out, vote - 1), 0);
}

static void body_messages(void **state)
{
    (void)state;
    uint8_t out[ROOM];
    const uint8_t units[3] = {1, 0, 1}, roots[3] = {0, 0, 1}, items[4] = {127, 0, 64, 1}, known[5] = {1, 0, 0, 0, 1};
    const double losses[5] = {1, 0, 0, 0, 5};
    struct message_report report = {.version = 4, .plan = 99, .unit_count = 3, .units = units, .roots = roots};
    report.complete = true;
    report.stage_count = 2;
    report.item_count = 2;
    report.items = items;
    report.loss_count = 5;
    report.loss_known = known;
    report.losses = losses;
    size_t size = message_report_encode(&report, out, message_report_bytes(&report));
    check("REPORT", out, size, report_again);
    check("REPORT", out, message_report_encode(&(struct message_report){.version = 1}, out, ROOM), report_again);

    const struct message_member members[2] = {{3, MESSAGE_WORKER, "@a"}, {4, MESSAGE_SHADOW, "@b"}};
    struct message_generation generation = {
        .step = 4, .steps = 9, .anew = true, .has_commit = true, .commit = a_commit()};
    generation.self = 1;
    generation.member_count = 2;
    generation.members = members;
    generation.now = "";
    generation.steady = "plan 1\n";
    generation.steady_bytes = 7;
    size = message_generation_encode(&generation, out, message_generation_bytes(&generation));
    check("GENERATION", out, size, generation_again);
    struct message_generation read;
    assert_int_equal(message_generation_decode(out, size, NULL, &read), BG_OK);
    assert_string_equal(read.now, "");
    assert_string_equal(read.steady, "plan 1\n");
    assert_string_equal(read.members[1].address, "@b");
    assert_true(read.commit.clip == 0.1f);
    message_fini(read.memory);

    const struct message_evaluation evaluations[2] = {{2, 64, 3.5, 5.0}, {4, 64, 3.25, 4.5}};
    struct message_task task = {.id = 8, .evaluate = true, .hash = true, .seconds = 2.5, .evaluation_count = 2};
    task.evaluations = evaluations;
    task.loss_count = 5;
    task.losses = losses;
    check("TASK", out, message_task_encode(&task, out, message_task_bytes(&task)), task_again);
}

// Changes one byte and expects a refusal that names the field.
static void refuses(const uint8_t *bytes, size_t size, size_t at, uint8_t value, again_fn again, const char *field)
{
    uint8_t bad[ROOM], out[ROOM];
    memcpy(bad, bytes, size);
    bad[at] = value;
    struct bg_error err = {0};
    size_t written;
    assert_int_equal(again(bad, size, &err, out, &written), BG_FORMAT);
    if (!strstr(err.text, field))
        fail_msg("\"%s\" does not name %s", err.text, field);
}

static void bounds(void **state)
{
    (void)state;
    uint8_t out[ROOM];
    struct message_hello hello = {.version = MESSAGE_VERSION, .address = "@brigade-1"};
    size_t size = message_hello_encode(&hello, out, sizeof out);
    refuses(out, size, 0, 2, hello_again, "version");
    refuses(out, size, 32, 7, hello_again, "role");
    refuses(out, size, size - 1, 0, hello_again, "address"); // a NUL in the text
    refuses(out, size, size - 11, 1, hello_again, "address");

    const double squares[2] = {1, 2};
    size = message_vote_encode(2, (const uint8_t[]){1, 0}, squares, 1, out, sizeof out);
    refuses(out, size, 8, 2, vote_again, "held");
    refuses(out, size, 8, 0, vote_again, "squares");
    refuses(out, size, 3, 0xff, vote_again, "held"); // 4 G parameters

    const struct message_member member = {1, MESSAGE_WORKER, "@a"};
    struct message_generation generation = {.member_count = 1, .members = &member, .now = "", .steady = ""};
    size = message_generation_encode(&generation, out, sizeof out);
    refuses(out, size, 16, 3, generation_again, "source");
    refuses(out, size, 28, 2, generation_again, "has_commit");
    refuses(out, size, 29, 2, generation_again, "anew");
    refuses(out, size, 58, 2, generation_again, "members.role");
    refuses(out, size, 33, 0xff, generation_again, "member_count");
    refuses(out, size, 34, 5, generation_again, "self");
    refuses(out, size, 45, 0xff, generation_again, "now");

    struct message_report report = {.unit_count = 1, .units = (const uint8_t[]){1}, .roots = (const uint8_t[]){1}};
    size = message_report_encode(&report, out, sizeof out);
    refuses(out, size, 16, 2, report_again, "complete");
    refuses(out, size, 20, 0xff, report_again, "arrays");
    refuses(out, size, size - 1, 2, report_again, "roots");
    struct message_task task = {.id = 1};
    size = message_task_encode(&task, out, sizeof out);
    refuses(out, size, size - 1, 0xff, task_again, "loss_count");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_messages),
        cmocka_unit_test(step_messages),
        cmocka_unit_test(body_messages),
        cmocka_unit_test(bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
