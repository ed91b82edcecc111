// make_seeds DIR: valid small files of the formats we write, one folder for each fuzz target, as the fuzzers' seeds.
// Run again it overwrites them.
#include "base/mem.h"
#include "base/str.h"
#include "comm/shm/codec.h"
#include "model/io.h"
#include "os/live.h"
#include "plan/schedule/placement.h"
#include "plan/plan.h"
#include "wire/message.h"

#include <stdio.h>
#include <string.h>

struct job {
    struct bg_env *env;
    const char *directory;
    struct bg_error err;
};

static bg_status copy(struct job *job, const char *from, const char *target, const char *name)
{
    char *folder = bg_format("%s/%s", job->directory, target), *to = bg_format("%s/%s", folder, name);
    struct bg_map map;
    bg_status status = job->env->ops->make_directories(job->env, folder, &job->err);
    if (!status)
        status = job->env->ops->map_open(job->env, from, &job->err, &map);
    if (!status) {
        status = env_write_file(job->env, to, map.data, map.size, &job->err);
        job->env->ops->map_close(job->env, &map);
    }
    bg_free(folder);
    bg_free(to);
    return status;
}

static bg_status save(struct job *job, const struct model *model, const float *weights, const char *name)
{
    char *scratch = bg_format("%s/scratch", job->directory), *gguf = bg_format("%s.gguf", scratch);
    char *llama2c = bg_format("%s.bin", scratch), *config = bg_format("%s/config.json", scratch);
    char *tensors = bg_format("%s/model.safetensors", scratch);
    bg_status status = model_save(job->env, model, weights, NULL, MODEL_SAFETENSORS, scratch, &job->err);
    if (!status)
        status = copy(job, config, "config_fuzz", name);
    if (!status)
        status = copy(job, tensors, "safetensors_fuzz", name);
    if (!status)
        status = model_save(job->env, model, weights, NULL, MODEL_GGUF, gguf, &job->err);
    if (!status)
        status = copy(job, gguf, "gguf_fuzz", name);
    if (!status && model->config.family == MODEL_LLAMA && !model->config.qkv_bias) {
        status = model_save(job->env, model, weights, NULL, MODEL_LLAMA2C, llama2c, &job->err);
        if (!status)
            status = copy(job, llama2c, "llama2c_fuzz", name);
    }
    for (size_t i = 0; i < 3; i++) {
        const char *leftover = (const char *[]){scratch, gguf, llama2c}[i];
        if (!status)
            status = job->env->ops->path_remove(job->env, leftover, &job->err);
    }
    bg_free(scratch);
    bg_free(gguf);
    bg_free(llama2c);
    bg_free(config);
    bg_free(tensors);
    return status;
}

// Plans of some schedules, whole, in slices, and the rest of a step of each kind.
static bg_status make_plans(struct job *job)
{
    static const double costs[4] = {1, 2, 1, 1};
    static const uint32_t replicas[2] = {1, 2};
    const struct plan_holdings nothing[4] = {{0}};
    const uint8_t losses[3] = {0};
    char *folder = bg_format("%s/plan_fuzz", job->directory);
    bg_status status = job->env->ops->make_directories(job->env, folder, &job->err);
    for (uint32_t i = 0; i < 6 && !status; i++) {
        const struct plan_options options = {.costs = costs,
                                             .units = 4,
                                             .micro_batches = 3,
                                             .group = 1,
                                             .replicas = replicas,
                                             .stages = 2,
                                             .schedule = (enum plan_schedule)(i % 3),
                                             .chunks = 2,
                                             .slices = i < 4 ? 1 : 3,
                                             .split = i > 1,
                                             .recompute = i == 1,
                                             .followers = 1,
                                             .passes = {i == 4, i % 3, i % 2}};
        struct plan plan = {0};
        struct plan_recovery counted;
        status = plan_build(&options, &job->err, &plan);
        if (!status && i % 2 && i > 2)
            status = plan_recover(&plan, nothing, losses, true, &job->err, &counted);
        if (status)
            break;
        char *text = plan_format(&plan), *path = bg_format("%s/plan-%u", folder, i);
        status = env_write_file(job->env, path, text, strlen(text), &job->err);
        bg_free(text);
        bg_free(path);
        plan_fini(&plan);
    }
    bg_free(folder);
    return status;
}

// The shapes of placements on two devices.
static bg_status make_placements(struct job *job)
{
    char *folder = bg_format("%s/placement_fuzz", job->directory);
    bg_status status = job->env->ops->make_directories(job->env, folder, &job->err);
    for (size_t i = 0; plan_placement_shape_name(i) && !status; i++) {
        struct plan_placement placement;
        status = plan_placement_shape(plan_placement_shape_name(i), 2, &job->err, &placement);
        if (status)
            break;
        char *text = plan_placement_format(&placement), *path = bg_format("%s/shape-%zu", folder, i);
        status = env_write_file(job->env, path, text, strlen(text), &job->err);
        bg_free(text);
        bg_free(path);
        plan_placement_fini(&placement);
    }
    bg_free(folder);
    return status;
}

static bg_status make(struct job *job)
{
    const struct model_config llama = {.family = MODEL_LLAMA,
                                       .layers = 1,
                                       .dim = 4,
                                       .heads = 2,
                                       .kv_heads = 1,
                                       .head_dim = 2,
                                       .ffn = 4,
                                       .context = 4,
                                       .vocab = 6,
                                       .rope_theta = 10000,
                                       .norm_eps = 1e-5,
                                       .bos = 1,
                                       .eos = 2};
    struct model_config configs[4] = {llama, llama, llama, llama};
    configs[1].tie = true;
    configs[2].qkv_bias = true;
    configs[3].family = MODEL_GPT2;
    configs[3].kv_heads = 2;
    bg_status status = BG_OK;
    for (int i = 0; i < 4 && !status; i++) {
        struct model *model = NULL;
        status = model_create(&configs[i], &job->err, &model);
        if (status)
            break;
        float *weights = bg_alloc_array(model->floats, sizeof *weights);
        char name[16];
        snprintf(name, sizeof name, "model-%d", i);
        status = save(job, model, weights, name);
        bg_free(weights);
        model_destroy(model);
    }
    return status;
}

static bg_status seed(struct job *job, const char *target, const char *name, const uint8_t *bytes, size_t size)
{
    char *folder = bg_format("%s/%s", job->directory, target), *path = bg_format("%s/%s", folder, name);
    bg_status status = job->env->ops->make_directories(job->env, folder, &job->err);
    if (!status)
        status = env_write_file(job->env, path, bytes, size, &job->err);
    bg_free(folder);
    bg_free(path);
    return status;
}

// message_fuzz: the byte that picks the message, then its payload.
static bg_status seed_message(struct job *job, uint8_t pick, const char *name, const uint8_t *payload, size_t size)
{
    uint8_t bytes[2049] = {pick};
    memcpy(bytes + 1, payload, size);
    return seed(job, "message_fuzz", name, bytes, size + 1);
}

// Frame headers of every kind; a slot and a message of the shared-memory transport.
static bg_status seed_frames(struct job *job)
{
    bg_status status = BG_OK;
    for (uint16_t kind = 1; kind < WIRE_KIND_COUNT && !status; kind++) {
        const struct wire_frame frame = {.kind = kind, .generation = 1, .step = 2, .bytes = 4096};
        uint8_t header[WIRE_FRAME_BYTES], slot[SHM_SLOT_BYTES];
        wire_frame_encode(&frame, header);
        status = seed(job, "frame_fuzz", wire_kind_name(kind), header, sizeof header);
        shm_slot_encode(&(struct shm_slot){.kind = SHM_SLOT_COPY, .frame = frame}, kind, slot);
        if (!status)
            status = seed(job, "shm_fuzz", wire_kind_name(kind), slot, sizeof slot);
    }
    uint8_t message[SHM_MESSAGE_BYTES];
    shm_message_encode(&(struct shm_message){.kind = SHM_MESSAGE_HELLO, .bytes = 1 << 20}, message);
    return status ? status : seed(job, "shm_fuzz", "hello", message, sizeof message);
}

static bg_status seed_messages(struct job *job)
{
    static const uint8_t ones[4] = {1, 1, 1, 1};
    static const double values[2] = {1.5, 2.5};
    const struct message_hello hello = {.version = MESSAGE_VERSION, .member = 1, .address = "@brigade"};
    const struct message_commit commit = {.step = 3, .loss = 1, .norm = 2, .clip = 1};
    const struct message_task_done done = {.id = 1, .evaluated = true, .directory = "step-3"};
    const struct message_member member = {1, MESSAGE_WORKER, "@brigade"};
    const struct message_evaluation evaluation = {2, 3, 4, 5};
    const struct message_report report = {.unit_count = 4,
                                          .units = ones,
                                          .roots = ones,
                                          .stage_count = 2,
                                          .item_count = 2,
                                          .items = ones,
                                          .loss_count = 2,
                                          .loss_known = ones,
                                          .losses = values};
    const struct message_generation generation = {.has_commit = true,
                                                  .commit = commit,
                                                  .member_count = 1,
                                                  .members = &member,
                                                  .now = "",
                                                  .steady = "plan",
                                                  .steady_bytes = 4};
    const struct message_task task = {
        .id = 1, .evaluation_count = 1, .evaluations = &evaluation, .loss_count = 2, .losses = values};
    uint8_t out[10][2048];
    const size_t sizes[10] = {
        message_hello_encode(&hello, out[0], 2048),
        message_welcome_encode(&(struct message_welcome){7}, out[1], 2048),
        message_trouble_encode(&(struct message_trouble){.text = "late"}, out[2], 2048),
        message_commit_encode(&commit, out[3], 2048),
        message_task_done_encode(&done, out[4], 2048),
        message_report_encode(&report, out[5], 2048),
        message_generation_encode(&generation, out[6], 2048),
        message_task_encode(&task, out[7], 2048),
        message_loss_encode(4, 2, values, out[8], 2048),
        message_vote_encode(2, ones, values, 1, out[9], 2048),
    };
    static const char *const names[10] = {"hello",  "welcome",    "trouble", "commit", "task_done",
                                          "report", "generation", "task",    "loss",   "vote"};
    bg_status status = BG_OK;
    for (uint8_t i = 0; i < 10 && !status; i++)
        status = seed_message(job, i, names[i], out[i], sizes[i]);
    return status ? status : make_plans(job);
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: make_seeds DIR\n");
        return 64;
    }
    struct job job = {.directory = argv[1]};
    const struct os_options options = {.threads = 1};
    bg_status status = os_env_create(&options, &job.err, &job.env);
    if (!status)
        status = job.env->ops->make_directories(job.env, argv[1], &job.err);
    if (!status)
        status = make(&job);
    if (!status)
        status = seed_messages(&job);
    if (!status)
        status = seed_frames(&job);
    if (!status)
        status = make_placements(&job);
    if (status)
        fprintf(stderr, "make_seeds: %s\n", job.err.text);
    if (job.env)
        os_env_destroy(job.env);
    return status ? 1 : 0;
}
