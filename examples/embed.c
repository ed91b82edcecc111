// Brigade inside another program: trains a small model on a text, then continues a prompt with it.
//
//     cc embed.c $(pkg-config --cflags --libs brigade) -o embed
//     ./embed corpus.txt runs/embedded
#include <brigade/brigade.h>

#include <stdio.h>

static int show_step(void *arg, const struct bg_train_step *step)
{
    (void)arg;
    if (step->step % 20 == 0 || step->step + 1 == step->steps)
        fprintf(stderr, "step %llu  loss %.4f\n", (unsigned long long)step->step, step->loss);
    return 0; // anything else stops after this step
}

static int print_text(void *arg, const char *bytes, size_t size)
{
    (void)arg;
    fwrite(bytes, 1, size, stdout);
    return 0;
}

static int run(bg_context *context, const char *corpus, const char *directory)
{
    char run_dir[512];
    snprintf(run_dir, sizeof run_dir, "run.dir=%s", directory);
    const char *overrides[] = {"model.layers=2",
                               "model.dim=64",
                               "model.heads=4",
                               "model.context=64",
                               "train.micro_batch=8",
                               "train.micro_batches=2",
                               "train.steps=100",
                               "train.lr=1e-3",
                               "train.checkpoint_every=0",
                               "train.eval_every=0",
                               run_dir};
    struct bg_train_options train = BG_TRAIN_OPTIONS_INIT;
    train.source = corpus;
    train.overrides = overrides;
    train.override_count = sizeof overrides / sizeof *overrides;
    train.on_step = show_step;
    struct bg_train_result trained;
    if (bg_train(context, &train, &trained))
        return 1;
    printf("curve_sha256 %s\n", trained.curve_sha256);

    bg_model *model;
    if (bg_model_open(context, directory, &model))
        return 1;
    struct bg_sample_options sample = BG_SAMPLE_OPTIONS_INIT;
    sample.tokens = 60;
    sample.seed = 1;
    enum bg_status status = bg_generate(model, "The ", &sample, print_text, NULL, NULL);
    printf("\n");
    bg_model_close(model);
    return status != BG_OK;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: embed CORPUS.txt NEW-RUN-DIRECTORY\n");
        return 64;
    }
    bg_context *context;
    if (bg_context_create(0, &context)) {
        fprintf(stderr, "embed: no context\n");
        return 1;
    }
    int failed = run(context, argv[1], argv[2]);
    if (failed)
        fprintf(stderr, "embed: %s\n", bg_error_text(context));
    bg_context_destroy(context);
    return failed;
}
