// The keys of a job: one row each with type, place in struct job, bounds, default and meaning. Everything that knows
// keys (parsing, defaults, overrides, help, output) goes through this table; a new key is one row here and one field.
#include "train/job_int.h"

#include "base/mem.h"

#include <string.h>

#define AT(field)        .offset = offsetof(struct job, field)
#define RANGE(low, high) .min = (low), .max = (high)

static const struct job_key keys[] = {
    {"model.family", JOB_WORD, AT(model.config.family), .words = "llama|gpt2", .standard = "llama",
     .meaning = "architecture"},
    {"model.layers", JOB_COUNT32, AT(model.config.layers), RANGE(1, 1024), .standard = "6", .meaning = "blocks"},
    {"model.dim", JOB_COUNT32, AT(model.config.dim), RANGE(1, 65536), .standard = "384", .meaning = "width"},
    {"model.heads", JOB_COUNT32, AT(model.config.heads), RANGE(1, 1024), .standard = "6", .meaning = "query heads"},
    {"model.kv_heads", JOB_COUNT32, AT(model.config.kv_heads), RANGE(1, 1024), .derived = "heads",
     .meaning = "key and value heads; heads is a multiple of it"},
    {"model.head_dim", JOB_COUNT32, AT(model.config.head_dim), RANGE(1, 65536), .derived = "dim / heads",
     .meaning = "width of one head"},
    {"model.ffn", JOB_COUNT32, AT(model.config.ffn), RANGE(1, 1048576),
     .derived = "llama: 8/3 dim, rounded up to 32; gpt2: 4 dim", .meaning = "width of the feed-forward layer"},
    {"model.context", JOB_COUNT32, AT(model.config.context), RANGE(1, 1048576), .standard = "256",
     .meaning = "tokens a sequence; with model.from its default is the model's"},
    {"model.vocab", JOB_COUNT32, AT(model.config.vocab), RANGE(1, 16777216), .derived = "the tokenizer's",
     .meaning = "rows of the embedding, at least the tokenizer's"},
    {"model.tie", JOB_FLAG, AT(model.config.tie), .standard = "true",
     .meaning = "the output head is the token embedding"},
    {"model.bias", JOB_BIAS, 0, .derived = "none", .meaning = "biases of the llama family (Qwen2: qkv); gpt2 has all"},
    {"model.rope_theta", JOB_NUMBER, AT(model.config.rope_theta), RANGE(1, 1e12), .standard = "10000",
     .meaning = "base of the rotary frequencies (llama)"},
    {"model.norm_eps", JOB_NUMBER, AT(model.config.norm_eps), RANGE(0, 0.5), JOB_ABOVE_MIN, .standard = "1e-05",
     .meaning = "added to variances in norms"},
    {"model.from", JOB_TEXT, AT(model.from), .derived = "none",
     .meaning =
         "start from this model (directory, run or .gguf); of the other model keys only context may stand beside it"},

    {"data.train", JOB_PATHS, AT(data.train), .derived = "required",
     .meaning = "text files, .jsonl, directories; each may be .gz or .zst"},
    {"data.valid", JOB_SPLIT, AT(data.valid), RANGE(0, 1), JOB_BELOW_MAX, .standard = "0.1",
     .meaning = "last fraction of the tokens kept for validation, or files of its own"},
    {"data.tokenizer", JOB_TEXT, AT(data.tokenizer), .derived = "bytes; with model.from the model's own",
     .meaning = "bytes, tokenizer.json, *.tiktoken, or a directory"},
    {"data.field", JOB_TEXT, AT(data.field), .standard = "text",
     .meaning = "key of the text in .jsonl lines; a.b goes inside"},
    {"data.utf8", JOB_CHOICE, AT(data.utf8), .words = "keep|error|replace", .standard = "keep",
     .meaning = "bytes that are not UTF-8: taken as they are, refused, or replaced by U+FFFD"},
    {"data.cache", JOB_TEXT, AT(data.cache), .derived = "RUN/cache", .meaning = "directory of the token cache"},

    {"train.steps", JOB_COUNT64, AT(train.steps), RANGE(1, 1e9), .standard = "500", .meaning = "optimizer steps"},
    {"train.micro_batch", JOB_COUNT32, AT(train.micro_batch), RANGE(1, 65536), .standard = "4",
     .meaning = "sequences a micro-batch"},
    {"train.micro_batches", JOB_COUNT32, AT(train.micro_batches), RANGE(1, 65536), .standard = "8",
     .meaning = "micro-batches a step"},
    {"train.lr", JOB_NUMBER, AT(train.lr), RANGE(0, 1000), .standard = "0.0003", .meaning = "highest learning rate"},
    {"train.min_lr", JOB_NUMBER, AT(train.min_lr), RANGE(0, 1000), .derived = "lr / 10",
     .meaning = "learning rate at the end of the schedule"},
    {"train.warmup", JOB_COUNT64, AT(train.warmup), RANGE(0, 1e9), .derived = "steps / 10",
     .meaning = "steps of rising learning rate"},
    {"train.schedule", JOB_WORD, AT(train.schedule), .words = "cosine|linear|constant", .standard = "cosine",
     .meaning = "how the learning rate falls after the warm-up"},
    {"train.weight_decay", JOB_NUMBER, AT(train.weight_decay), RANGE(0, 1000), .standard = "0.1",
     .meaning = "AdamW decay of matrices"},
    {"train.betas", JOB_PAIR, AT(train.beta1), RANGE(0, 1), JOB_BELOW_MAX, .standard = "[0.9, 0.95]",
     .meaning = "AdamW decay of the moments"},
    {"train.eps", JOB_NUMBER, AT(train.eps), RANGE(0, 1), JOB_ABOVE_MIN, .standard = "1e-08",
     .meaning = "AdamW epsilon"},
    {"train.clip", JOB_NUMBER, AT(train.clip), RANGE(0, 1e9), .standard = "1",
     .meaning = "largest norm of the gradient; 0: no clipping"},
    {"train.dropout", JOB_NUMBER, AT(train.dropout), RANGE(0, 1), JOB_BELOW_MAX, .standard = "0",
     .meaning = "probability"},
    {"train.seed", JOB_COUNT64, AT(train.seed), RANGE(0, JOB_U64_MAX), .standard = "1",
     .meaning = "of initial weights, data order and dropout"},
    {"train.eval_every", JOB_COUNT64, AT(train.eval_every), RANGE(0, 1e9), .standard = "100",
     .meaning = "steps between evaluations; 0: only at the end"},
    {"train.checkpoint_every", JOB_COUNT64, AT(train.checkpoint_every), RANGE(0, 1e9), .standard = "100",
     .meaning = "steps between checkpoints; 0: only at the end"},
    {"train.keep", JOB_COUNT32, AT(train.keep), RANGE(1, 1e6), .standard = "3", .meaning = "newest checkpoints kept"},
    {"train.eval_tokens", JOB_COUNT64, AT(train.eval_tokens), RANGE(0, 1e15), .standard = "0",
     .meaning = "validation tokens an evaluation reads; 0: all"},

    {"run.dir", JOB_TEXT, AT(run.dir), .derived = "runs/NAME of the source", .meaning = "where everything is written"},
    {"run.workers", JOB_COUNT32, AT(run.workers), RANGE(0, 1000), .standard = "0",
     .meaning = "processes that compute; 0: as many as run.plan seats"},
    {"run.threads", JOB_COUNT32, AT(run.threads), RANGE(0, 4096), .standard = "0",
     .meaning = "threads a worker; 0: all cores, shared out among the workers"},
    {"run.speeds", JOB_TEXT, AT(run.speeds), .derived = "all alike",
     .meaning = "how fast the workers are, in their order, such as 1,0.5: the share of each is in proportion"},
    {"run.memory_gb", JOB_NUMBER, AT(run.memory_gb), RANGE(0, 1e6), .standard = "0",
     .meaning = "memory of a worker, for run.plan=auto; 0: this machine's, shared out among the workers"},
    {"run.plan", JOB_TEXT, AT(run.plan), .standard = "auto",
     .meaning = "STAGESxREPLICAS, the replicas of each stage (1+2), a plan file, or auto: what is fastest"},
    {"run.schedule", JOB_TEXT, AT(run.schedule), .standard = "1f1b",
     .meaning = "order of a pipeline: 1f1b, gpipe, interleaved[:CHUNKS], zb-h1, zb-2p, zb-v, zb-v-half, zb-v-min, "
                "seq1f1b[:SLICES], tessel[:CHUNKS], distmm[:RANGE]"},
    {"run.passes", JOB_TEXT, AT(run.passes), .standard = "auto",
     .meaning = "how gradients travel: none, or some of wait-free, one-owner:REPLICA, chunks:N; auto: wait-free"},
    {"run.split", JOB_FLAG, AT(run.split), .standard = "false",
     .meaning = "input and weight gradients apart, so that weight gradients fill a pipeline's gaps"},
    {"run.recompute", JOB_TEXT, AT(run.recompute), .standard = "false",
     .meaning = "compute a stage's forward again for its backward, for less memory: true, or stages such as 0,2-4"},
    {"run.offload", JOB_TEXT, AT(run.offload), .standard = "false",
     .meaning = "what a forward keeps for its backward waits on disk, for less memory: true, or stages such as 0,2-4"},
    {"run.scratch", JOB_TEXT, AT(run.scratch), .derived = "run.dir",
     .meaning = "directory for run.offload, on a local disk; files there have no name and go with their process"},
    {"run.shadow", JOB_CHOICE, AT(run.shadow), .words = "auto|true|false", .standard = "auto",
     .meaning = "a process more that follows every step; auto: where a stage has one replica and there are workers"},
    {"run.respawn", JOB_FLAG, AT(run.respawn), .standard = "true", .meaning = "start lost processes again"},
    {"run.recovery", JOB_CHOICE, AT(run.recovery), .words = "live|checkpoint", .standard = "live",
     .meaning = "after a death: go on in the step, or everybody back to the newest checkpoint"},
    {"run.heartbeat_ms", JOB_COUNT32, AT(run.heartbeat_ms), RANGE(50, 600000), .standard = "900",
     .meaning = "a process that is silent for so long is lost"},
    {"run.patience_ms", JOB_COUNT32, AT(run.patience_ms), RANGE(50, 3600000), .standard = "5000",
     .meaning = "an operation that waits so long for another process says so, and the step is put together anew"},
    {"run.join_ms", JOB_COUNT32, AT(run.join_ms), RANGE(1, 600000), .standard = "10000",
     .meaning = "how long the first step waits for all workers"},
    {"run.group", JOB_COUNT32, AT(run.group), RANGE(0, 65536), .standard = "0",
     .meaning = "micro-batches computed together; 0: chosen. Never changes the bits"},
    {"run.order", JOB_ORDER, AT(run.order), .standard = "ascending",
     .meaning = "in which groups are computed. Never changes the bits"},

    {"budget.policy", JOB_TEXT, AT(budget.policy), .derived = "none",
     .meaning = "what rents the machines, as in `brigade sim deadline`: patient, greedy, on-demand, ..."},
    {"budget.fleet_policy", JOB_TEXT, AT(budget.fleet_policy), .derived = "none",
     .meaning = "instead: takes all spot machines there are, and chooses stages x replicas for them: parcae, ..."},
    {"budget.deadline", JOB_TIME, AT(budget.deadline), RANGE(0, 1e9), JOB_ABOVE_MIN,
     .derived = "required with a policy", .meaning = "from the start of the job"},
    {"budget.work", JOB_TIME, AT(budget.work), RANGE(0, 1e9), .standard = "0",
     .meaning = "how long all steps take with all machines; 0: measured"},
    {"budget.overhead", JOB_TIME, AT(budget.overhead), RANGE(0, 1e9), .standard = "120",
     .meaning = "what was just rented does no work for so long"},
    {"budget.gap", JOB_TIME, AT(budget.gap), RANGE(0, 1e9), JOB_ABOVE_MIN, .standard = "600",
     .meaning = "between two decisions; a trace of counts brings its own"},
    {"budget.spot_price", JOB_NUMBER, AT(budget.spot_price), RANGE(0, 1e6), .standard = "0",
     .meaning = "of a spot machine, $ an hour"},
    {"budget.on_demand_price", JOB_NUMBER, AT(budget.on_demand_price), RANGE(0, 1e6), .standard = "0",
     .meaning = "of a machine on demand, $ an hour"},
    {"budget.trace", JOB_TEXT, AT(budget.trace), .derived = "none: spot is always there",
     .meaning = "spot machines as they came and went (`brigade trace`); takes them from the job as it says"},
    {"budget.zones", JOB_ZONES, AT(budget.zones), .derived = "none: budget.trace",
     .meaning =
         "zones with a trace and prices of their own, instead of budget.trace: the policy says what to rent, and "
         "it is rented where it was, else where it is cheapest"},
    {"budget.trace_start", JOB_COUNT32, AT(budget.trace_start), RANGE(0, 1e7), .standard = "0",
     .meaning = "tick of the trace at which the job starts"},
    {"budget.time_scale", JOB_NUMBER, AT(budget.time_scale), RANGE(0, 1e6), JOB_ABOVE_MIN, .standard = "1",
     .meaning = "the section's times pass so many times as fast (tests)"},
};
enum { KEYS = sizeof keys / sizeof *keys };
_Static_assert((int)KEYS <= (int)JOB_KEYS_MAX, "a place for every key");

size_t job_key_count(void)
{
    return KEYS;
}

const struct job_key *job_key_at(size_t index)
{
    return &keys[index];
}

static const char *leaf_of(const char *name)
{
    return strchr(name, '.') + 1;
}

// The key that was meant: the same leaf under another section, or the nearest name.
static const char *nearest_key(const char *section, const char *leaf)
{
    const char *names[KEYS];
    for (size_t i = 0; i < KEYS; i++) {
        names[i] = keys[i].name;
        if (strcmp(leaf_of(keys[i].name), leaf ? leaf : section) == 0)
            return keys[i].name;
    }
    char *full = leaf ? bg_format("%s.%s", section, leaf) : bg_strdup(section);
    const char *nearest = bg_nearest(full, names, KEYS);
    bg_free(full);
    return nearest;
}

static bool is_section(const char *name)
{
    for (size_t i = 0; i < KEYS; i++)
        if (strncmp(keys[i].name, name, strlen(name)) == 0 && keys[i].name[strlen(name)] == '.')
            return true;
    return false;
}

bg_status job_key_find(const char *where, const char *section, const char *leaf, struct bg_error *err, size_t *index)
{
    static const char *const sections[] = {"model", "data", "train", "run", "budget"};
    for (size_t i = 0; leaf && i < KEYS; i++) {
        size_t length = strlen(section);
        if (strncmp(keys[i].name, section, length) == 0 && keys[i].name[length] == '.' &&
            strcmp(keys[i].name + length + 1, leaf) == 0) {
            *index = i;
            return BG_OK;
        }
    }
    if (!leaf && is_section(section))
        return BG_OK;
    const char *nearest = leaf ? NULL : bg_nearest(section, sections, 5);
    if (!nearest)
        nearest = nearest_key(section, leaf);
    if (nearest)
        return bg_fail(err, BG_INVALID, "%s: unknown key %.60s%s%.60s; did you mean %s?", where, section,
                       leaf ? "." : "", leaf ? leaf : "", nearest);
    return bg_fail(err, BG_INVALID, "%s: unknown key %.60s%s%.60s; `brigade train --keys` lists them all", where,
                   section, leaf ? "." : "", leaf ? leaf : "");
}

char *job_help(void)
{
    struct bg_str text = {0};
    bg_str_add(
        &text,
        "Keys of a job file, or key=value on the command line. Relative paths start at the working directory.\n");
    for (size_t i = 0; i < KEYS; i++) {
        char expected[256];
        const struct job_key *key = &keys[i];
        bg_str_addf(&text, "%s  %-22s %s\n  %-22s takes %s; default: %s\n",
                    i && strncmp(key->name, keys[i - 1].name, 3) ? "\n" : "", key->name, key->meaning, "",
                    job_key_takes(key, expected), key->standard ? key->standard : key->derived);
    }
    return bg_str_take(&text);
}
