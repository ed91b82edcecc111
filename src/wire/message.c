// The messages of fixed size, and those that every step sends, which are read in place.
#include "wire/message_int.h"

static void code_hello(struct message_codec *c, struct message_hello *m)
{
    message_code_u32(c, "version", &m->version);
    if (m->version != MESSAGE_VERSION)
        message_refuse(c, "`version` is %u, this program speaks %d: the processes of a job must be of one build",
                       m->version, MESSAGE_VERSION);
    message_code_u32(c, "member", &m->member);
    message_code_u64(c, "token", &m->token);
    message_code_u64(c, "process", &m->process);
    message_code_u64(c, "process_start", &m->process_start);
    message_code_below(c, "role", &m->role, MESSAGE_SHADOW + 1);
    message_code_raw(c, "signature", m->signature, sizeof m->signature);
    message_code_text(c, "address", m->address, sizeof m->address);
}
MESSAGE_CODEC(hello, "HELLO", (void)0)

static void code_welcome(struct message_codec *c, struct message_welcome *m)
{
    message_code_u32(c, "member", &m->member);
}
MESSAGE_CODEC(welcome, "WELCOME", (void)0)

static void code_trouble(struct message_codec *c, struct message_trouble *m)
{
    message_code_below(c, "kind", &m->kind, MESSAGE_FAILED + 1);
    message_code_u32(c, "peer", &m->peer);
    message_code_u32(c, "status", &m->status);
    message_code_text(c, "text", m->text, sizeof m->text);
}
MESSAGE_CODEC(trouble, "TROUBLE", (void)0)

void message_code_evaluation(struct message_codec *c, struct message_evaluation *m)
{
    message_code_u64(c, "evaluation.step", &m->step);
    message_code_u64(c, "evaluation.tokens", &m->tokens);
    message_code_f64(c, "evaluation.loss", &m->loss);
    message_code_f64(c, "evaluation.bits_per_byte", &m->bits_per_byte);
}

void message_code_commit(struct message_codec *c, struct message_commit *m)
{
    message_code_u64(c, "step", &m->step);
    message_code_f64(c, "loss", &m->loss);
    message_code_f64(c, "norm", &m->norm);
    message_code_f32(c, "clip", &m->clip);
}
#define code_commit message_code_commit
MESSAGE_CODEC(commit, "COMMIT", (void)0)

static void code_task_done(struct message_codec *c, struct message_task_done *m)
{
    message_code_u64(c, "id", &m->id);
    message_code_u32(c, "status", &m->status);
    message_code_bool(c, "evaluated", &m->evaluated);
    message_code_bool(c, "checkpointed", &m->checkpointed);
    message_code_bool(c, "hashed", &m->hashed);
    message_code_evaluation(c, &m->evaluation);
    message_code_f64(c, "perplexity", &m->perplexity);
    message_code_f64(c, "evaluate_seconds", &m->evaluate_seconds);
    message_code_f64(c, "checkpoint_seconds", &m->checkpoint_seconds);
    message_code_raw(c, "weights_sha256", m->weights_sha256, sizeof m->weights_sha256);
    message_code_text(c, "directory", m->directory, sizeof m->directory);
    message_code_text(c, "text", m->text, sizeof m->text);
}
MESSAGE_CODEC(task_done, "TASK_DONE", (void)0)

uint64_t message_u64(const uint8_t *at, uint32_t index)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < 8; i++)
        value |= (uint64_t)at[8 * (size_t)index + i] << (8 * i);
    return value;
}

double message_double(const uint8_t *at, uint32_t index)
{
    uint64_t bits = message_u64(at, index);
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

size_t message_loss_encode(uint32_t first, uint32_t count, const double *losses, void *out, size_t capacity)
{
    struct message_codec c = message_writer("LOSS", out, capacity);
    message_code_u32(&c, "first", &first);
    message_code_u32(&c, "count", &count);
    message_code_doubles(&c, "losses", &losses, count);
    return message_write_end(&c, capacity);
}

bg_status message_loss_decode(const void *in, size_t size, struct bg_error *err, struct message_loss *m)
{
    struct message_codec c = message_reader("LOSS", in, size, err);
    struct message_loss read = {0};
    message_code_u32(&c, "first", &read.first);
    message_code_u32(&c, "count", &read.count);
    if (read.count > UINT32_MAX - read.first)
        message_refuse(&c, "`count` is %u after micro-batch %u", read.count, read.first);
    message_view(&c, "losses", &read.losses, (uint64_t)read.count * 8);
    bg_status status = message_read_end(&c);
    if (!status)
        *m = read;
    return status;
}

size_t message_vote_encode(uint32_t count, const uint8_t *held, const double *squares, uint32_t computed, void *out,
                           size_t capacity)
{
    struct message_codec c = message_writer("VOTE", out, capacity);
    message_code_u32(&c, "count", &count);
    message_code_u32(&c, "computed", &computed);
    message_code_bytes(&c, "held", &held, count, 2);
    for (uint32_t p = 0; p < count; p++) {
        double square = held[p] ? squares[p] : 0; // the others' places may hold anything
        message_code_f64(&c, "squares", &square);
    }
    return message_write_end(&c, capacity);
}

bg_status message_vote_decode(const void *in, size_t size, struct bg_error *err, struct message_vote *m)
{
    struct message_codec c = message_reader("VOTE", in, size, err);
    struct message_vote read = {0};
    message_code_u32(&c, "count", &read.count);
    message_code_u32(&c, "computed", &read.computed);
    message_view(&c, "held", &read.held, read.count);
    message_view(&c, "squares", &read.squares, (uint64_t)read.count * 8);
    for (uint32_t p = 0; !c.failed && p < read.count; p++) {
        static const uint8_t zero[8];
        if (read.held[p] > 1)
            message_refuse(&c, "`held` holds %u, expected 0 or 1", read.held[p]);
        if (!read.held[p] && memcmp(read.squares + 8 * (size_t)p, zero, 8) != 0)
            message_refuse(&c, "`squares` speaks of parameter %u, which is not held", p);
    }
    bg_status status = message_read_end(&c);
    if (!status)
        *m = read;
    return status;
}

size_t message_proof_encode(uint32_t count, const uint8_t *held, const uint64_t *sums, void *out, size_t capacity)
{
    struct message_codec c = message_writer("PROOF", out, capacity);
    message_code_u32(&c, "count", &count);
    message_code_bytes(&c, "held", &held, count, 2);
    for (uint32_t u = 0; u < count; u++) {
        uint64_t sum = held[u] ? sums[u] : 0;
        message_code_u64(&c, "sums", &sum);
    }
    return message_write_end(&c, capacity);
}

bg_status message_proof_decode(const void *in, size_t size, struct bg_error *err, struct message_proof *m)
{
    struct message_codec c = message_reader("PROOF", in, size, err);
    struct message_proof read = {0};
    message_code_u32(&c, "count", &read.count);
    message_view(&c, "held", &read.held, read.count);
    message_view(&c, "sums", &read.sums, (uint64_t)read.count * 8);
    for (uint32_t u = 0; !c.failed && u < read.count; u++) {
        if (read.held[u] > 1)
            message_refuse(&c, "`held` holds %u, expected 0 or 1", read.held[u]);
        else if (!read.held[u] && message_u64(read.sums, u))
            message_refuse(&c, "`sums` speaks of unit %u, which is not held", u);
    }
    bg_status status = message_read_end(&c);
    if (!status)
        *m = read;
    return status;
}
