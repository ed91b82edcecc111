// The `brigade` command: finds the verb and runs it. Verbs parse flags, pick an environment, call the rooms below and
// print; they decide nothing. Exit codes are those of sysexits.h; 75 means "resume me".
#include "cli/cli.h"

#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

static const struct cli_verb verbs[] = {
    {"train", cmd_train, "train a model on a text: JOB.yaml or CORPUS.txt, key=value ..."},
    {"generate", cmd_generate, "continue a prompt"},
    {"chat", cmd_chat, "talk with a model, line by line"},
    {"eval", cmd_eval, "loss, perplexity and bits per byte of a model on a text"},
    {"join", cmd_join, "lend this machine to a job that runs"},
    {"chaos", cmd_chaos, "train while processes are killed, and compare with an undisturbed run"},
    {"serve", cmd_serve, "answer over HTTP as OpenAI's API has it, with a page to chat"},
    {"route", cmd_route, "one address in front of several servers; no stream breaks when one dies"},
    {"bench", cmd_bench, "send a trace of requests to a server, and tell how long clients waited"},
    {"sim", cmd_sim, "what jobs, fleets and services would have cost on machines that come and go"},
    {"trace", cmd_trace, "read, mend, change and draw traces of machines and requests"},
    {"plan", cmd_plan, "how a job would run on given machines: stages, replicas, time, money"},
    {"plot", cmd_plot, "draw the loss curves of runs as SVG"},
    {"verify", cmd_verify, "recompute a run's hashes; --replay trains again and compares"},
    {"diff", cmd_diff, "the first step and tensor in which two runs or models differ"},
    {"import", cmd_import, "make a model directory from GGUF, llama2.c or safetensors"},
    {"export", cmd_export, "write a model as safetensors, GGUF or llama2.c"},
    {"inspect", cmd_inspect, "what is in a checkpoint, safetensors, GGUF or tokenizer file"},
    {"tokenizer", cmd_tokenizer, "train a tokenizer, encode text, decode ids"},
    {"doctor", cmd_doctor, "check this machine: CPU, kernels, memory, disk"},
    {"worker", cmd_worker, NULL}, // what train starts
};
#define VERB_COUNT (sizeof(verbs) / sizeof(verbs[0]))

static void print_help(FILE *out)
{
    fprintf(out,
            "brigade %s: trains and runs transformer language models, the same bits on every machine\n\n"
            "usage: brigade VERB [...]      brigade VERB --help\n\n",
            BRIGADE_VERSION);
    for (size_t i = 0; i < VERB_COUNT; i++)
        if (verbs[i].about)
            fprintf(out, "  %-10s %s\n", verbs[i].name, verbs[i].about);
    fprintf(out, "\nTo begin: brigade train my-text.txt, then brigade generate runs/my-text --prompt \"Once\"\n");
}

static int unknown_verb(const char *word)
{
    const char *names[VERB_COUNT];
    for (size_t i = 0; i < VERB_COUNT; i++)
        names[i] = verbs[i].name;
    const char *nearest = bg_nearest(word, names, VERB_COUNT);
    fprintf(stderr, "brigade: no verb '%s'%s%s%s; `brigade --help` lists them\n", word,
            nearest ? "; did you mean '" : "", nearest ? nearest : "", nearest ? "'?" : "");
    return EX_USAGE;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        print_help(stderr);
        return EX_USAGE;
    }
    const char *word = argv[1];
    if (!strcmp(word, "--help") || !strcmp(word, "-h") || !strcmp(word, "help")) {
        print_help(stdout);
        return cli_finish_output();
    }
    if (!strcmp(word, "--version") || !strcmp(word, "version")) {
        printf("brigade %s\n", BRIGADE_VERSION);
        return cli_finish_output();
    }
    for (size_t i = 0; i < VERB_COUNT; i++) {
        if (strcmp(word, verbs[i].name) != 0)
            continue;
        struct cli cli = {0};
        int code = verbs[i].run(&cli, argc - 1, argv + 1);
        cli_env_close(&cli);
        int output = cli_finish_output();
        return code ? code : output;
    }
    return unknown_verb(word);
}
