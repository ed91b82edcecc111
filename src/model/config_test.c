// config.json: the types that exist in the wild, their defaults, what is refused and by which words, and that what
// is saved reads back alike.
#include "model/config.h"

#include "base/mem.h"
#include "os/live.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct bg_error err;

#define LLAMA                                                                                                          \
    "\"model_type\":\"llama\",\"hidden_size\":64,\"num_hidden_layers\":5,\"num_attention_heads\":8,"                   \
    "\"intermediate_size\":172,\"max_position_embeddings\":512,\"vocab_size\":512"
#define QWEN2                                                                                                          \
    "\"model_type\":\"qwen2\",\"hidden_size\":64,\"num_hidden_layers\":5,\"num_attention_heads\":8,"                   \
    "\"intermediate_size\":172,\"max_position_embeddings\":512,\"vocab_size\":512"
#define GPT2 "\"model_type\":\"gpt2\",\"n_embd\":48,\"n_layer\":3,\"n_head\":3,\"n_positions\":11,\"vocab_size\":100"

static struct model_config good(const char *text)
{
    struct model_config config;
    if (model_config_parse(text, strlen(text), "config.json", &err, &config))
        fail_msg("%s\n%s", text, err.text);
    return config;
}

static void bad(const char *text, bg_status status, const char *mention)
{
    struct model_config config;
    bg_status got = model_config_parse(text, strlen(text), "config.json", &err, &config);
    if (got != status || !strstr(err.text, mention) || strncmp(err.text, "config.json", 11))
        fail_msg("%s\n  gave %d: %s", text, (int)got, got ? err.text : "ok");
}

static void what_is_absent_has_hugging_faces_defaults(void **state)
{
    (void)state;
    struct model_config c = good("{" LLAMA "}");
    assert_int_equal(c.family, MODEL_LLAMA);
    assert_int_equal(c.kv_heads, 8);
    assert_int_equal(c.head_dim, 8);
    assert_false(c.tie || c.qkv_bias || c.out_bias || c.mlp_bias);
    assert_true(c.rope_theta == 10000 && c.norm_eps == 1e-6);
    assert_int_equal(c.bos, 1);
    assert_int_equal(c.eos, 2);
    c = good("{" QWEN2 ",\"rope_theta\":1000000,\"tie_word_embeddings\":true,\"num_key_value_heads\":2,"
             "\"sliding_window\":16,\"use_sliding_window\":false,\"bos_token_id\":7,\"eos_token_id\":[3,4]}");
    assert_true(c.qkv_bias && !c.out_bias && c.tie && c.rope_theta == 1e6);
    assert_int_equal(c.kv_heads, 2);
    assert_int_equal(c.bos, 7);
    assert_int_equal(c.eos, 3);
    c = good("{" GPT2 "}");
    assert_int_equal(c.family, MODEL_GPT2);
    assert_int_equal(c.ffn, 192);
    assert_int_equal(c.head_dim, 16);
    assert_true(c.tie && c.norm_eps == 1e-5);
    assert_int_equal(c.bos, -1); // 50256 lies beyond this vocabulary
    assert_int_equal(good("{" GPT2 ",\"n_inner\":null,\"eos_token_id\":null}").eos, -1);
    assert_int_equal(good("{" GPT2 ",\"n_inner\":50}").ffn, 50);
    c = good("{" LLAMA ",\"attention_bias\":true,\"mlp_bias\":true,\"head_dim\":16}");
    assert_true(c.qkv_bias && c.out_bias && c.mlp_bias);
    assert_int_equal(c.head_dim, 16);
}

static void spellings_in_the_wild_are_read(void **state)
{
    (void)state;
    good("{" LLAMA ",\"rope_scaling\":null}");
    good("{" LLAMA ",\"rope_scaling\":{\"rope_type\":\"default\"}}");
    assert_true(good("{" LLAMA ",\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":5e5}}").rope_theta ==
                5e5);
    good("{\"architectures\":[\"MistralForCausalLM\"],\"hidden_size\":64,\"num_hidden_layers\":5,"
         "\"num_attention_heads\":8,\"intermediate_size\":172,\"max_position_embeddings\":512,\"vocab_size\":512,"
         "\"sliding_window\":null}");
    good("{" GPT2 ",\"activation_function\":\"gelu_pytorch_tanh\",\"n_ctx\":11,\"unknown\":[{}]}");
}

static void what_is_not_implemented_is_refused(void **state)
{
    (void)state;
    bad("{" LLAMA ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8}}", BG_UNSUPPORTED, "llama3");
    bad("{" LLAMA ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":2}}", BG_UNSUPPORTED, "linear");
    bad("{" LLAMA ",\"rope_scaling\":{}}", BG_UNSUPPORTED, "rope_scaling");
    bad("{" LLAMA ",\"rope_scaling\":3}", BG_FORMAT, "rope_scaling");
    bad("{" LLAMA ",\"hidden_act\":\"gelu\"}", BG_UNSUPPORTED, "hidden_act");
    bad("{" LLAMA ",\"partial_rotary_factor\":0.5}", BG_UNSUPPORTED, "partial_rotary_factor");
    bad("{" QWEN2 ",\"use_sliding_window\":true,\"sliding_window\":16}", BG_UNSUPPORTED, "sliding_window");
    bad("{" LLAMA ",\"sliding_window\":16}", BG_UNSUPPORTED, "sliding_window");
    bad("{" GPT2 ",\"activation_function\":\"relu\"}", BG_UNSUPPORTED, "activation_function");
    bad("{" GPT2 ",\"scale_attn_by_inverse_layer_idx\":true}", BG_UNSUPPORTED, "scale_attn_by_inverse_layer_idx");
    bad("{" GPT2 ",\"scale_attn_weights\":false}", BG_UNSUPPORTED, "scale_attn_weights");
    bad("{\"model_type\":\"mamba\"}", BG_UNSUPPORTED, "mamba");
    bad("{}", BG_UNSUPPORTED, "model_type");
}

static void nonsense_is_refused(void **state)
{
    (void)state;
    bad("", BG_FORMAT, "config.json");
    bad("[]", BG_FORMAT, "object");
    bad("{\"model_type\":\"llama\"}", BG_NOT_FOUND, "hidden_size");
    bad("{" LLAMA ",\"vocab_size\":3}", BG_FORMAT, "duplicate");
    bad("{" LLAMA ",\"head_dim\":7}", BG_INVALID, "head_dim");
    bad("{" LLAMA ",\"num_key_value_heads\":3}", BG_INVALID, "kv_heads");
    bad("{" LLAMA ",\"num_key_value_heads\":0}", BG_FORMAT, "num_key_value_heads");
    bad("{" LLAMA ",\"head_dim\":4294967298}", BG_FORMAT, "head_dim");
    bad("{" LLAMA ",\"tie_word_embeddings\":1}", BG_FORMAT, "tie_word_embeddings");
    bad("{" LLAMA ",\"rms_norm_eps\":0}", BG_INVALID, "norm_eps");
    bad("{" LLAMA ",\"rope_theta\":-1}", BG_INVALID, "rope_theta");
    bad("{" LLAMA ",\"eos_token_id\":\"x\"}", BG_FORMAT, "eos_token_id");
    bad("{\"model_type\":\"gpt2\",\"n_embd\":50,\"n_layer\":3,\"n_head\":3,\"n_positions\":11,\"vocab_size\":100}",
        BG_INVALID, "head_dim");
    bad("{\"model_type\":\"gpt2\",\"n_embd\":1073741824,\"n_layer\":3,\"n_head\":3,\"n_positions\":11,"
        "\"vocab_size\":100}",
        BG_INVALID, "dim");
    bad("{\"model_type\":\"gpt2\",\"n_embd\":48,\"n_layer\":1000000,\"n_head\":3,\"n_positions\":11,"
        "\"vocab_size\":100}",
        BG_INVALID, "layers");
}

static void what_is_saved_reads_back(void **state)
{
    (void)state;
    struct bg_env *env;
    const struct os_options options = {.threads = 1};
    assert_int_equal(os_env_create(&options, &err, &env), BG_OK);
    char directory[] = "/tmp/brigade-config-XXXXXX";
    assert_non_null(mkdtemp(directory));
    char *path = bg_format("%s/config.json", directory);
    const struct model_config llama = {.family = MODEL_LLAMA,
                                       .layers = 2,
                                       .dim = 24,
                                       .heads = 4,
                                       .kv_heads = 2,
                                       .head_dim = 8,
                                       .ffn = 33,
                                       .context = 17,
                                       .vocab = 100,
                                       .rope_theta = 10000.0 / 3,
                                       .norm_eps = 1e-5,
                                       .bos = -1,
                                       .eos = 5};
    struct model_config gpt2 = llama;
    gpt2.family = MODEL_GPT2;
    gpt2.kv_heads = 4;
    gpt2.head_dim = 6;
    gpt2.rope_theta = 0;
    for (unsigned variant = 0; variant < 32; variant++) {
        struct model_config c = variant & 1 ? gpt2 : llama, read = {0};
        c.tie = variant & 2;
        c.qkv_bias = variant & 4;
        c.out_bias = variant & 8;
        c.mlp_bias = variant & 16;
        bool possible = variant & 1 ? variant < 4 : c.qkv_bias == c.out_bias || (c.qkv_bias && !c.mlp_bias);
        bg_status status = model_config_save(env, path, &c, &err);
        assert_int_equal(status, possible ? BG_OK : BG_INVALID);
        if (!possible)
            continue;
        if (model_config_load(env, path, &err, &read))
            fail_msg("%s", err.text);
        assert_int_equal(read.family, c.family);
        assert_memory_equal(&read.layers, &c.layers, 8 * sizeof read.layers);
        assert_true(read.tie == c.tie && read.qkv_bias == c.qkv_bias && read.out_bias == c.out_bias);
        assert_true(read.mlp_bias == c.mlp_bias && read.rope_theta == c.rope_theta && read.norm_eps == c.norm_eps);
        assert_true(read.bos == c.bos && read.eos == c.eos);
    }
    assert_int_equal(env->ops->path_remove(env, directory, &err), BG_OK);
    bg_free(path);
    os_env_destroy(env);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_absent_has_hugging_faces_defaults),
        cmocka_unit_test(spellings_in_the_wild_are_read),
        cmocka_unit_test(what_is_not_implemented_is_refused),
        cmocka_unit_test(nonsense_is_refused),
        cmocka_unit_test(what_is_saved_reads_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
