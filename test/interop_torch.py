#!/usr/bin/python3
"""What a Llama model would say after each token, in PyTorch, from a directory of safetensors or a .gguf as others read
them: nothing of brigade's is used. usage: interop_torch.py MODEL ID...; prints the likeliest next id after every id."""
import json
import struct
import sys

import numpy
import torch


def read_safetensors(directory):
    raw = open(directory + "/model.safetensors", "rb").read()
    size = struct.unpack("<Q", raw[:8])[0]
    c = json.load(open(directory + "/config.json"))
    w = {n.removeprefix("model.").removesuffix(".weight"):
         numpy.frombuffer(raw, "<f4", (t["data_offsets"][1] - t["data_offsets"][0]) // 4, 8 + size + t["data_offsets"][0]).reshape(t["shape"])
         for n, t in json.loads(raw[8:8 + size]).items() if n != "__metadata__"}
    return w, c["num_hidden_layers"], c["num_attention_heads"], c["num_key_value_heads"], c["rope_theta"], c["rms_norm_eps"], False


def read_gguf(path):
    raw, at = open(path, "rb").read(), 24
    def take(form):
        nonlocal at
        at += struct.calcsize(form)
        return struct.unpack_from("<" + form, raw, at - struct.calcsize(form))[0]
    text = lambda: take(f"{take('Q')}s").decode("utf-8", "replace")
    value = lambda kind: text() if kind == 8 else many() if kind == 9 else take("BbHhIif?__QqD"[kind].replace("D", "d"))
    many = lambda: (lambda kind, count: [value(kind) for _ in range(count)])(take("I"), take("Q"))
    tensors, pairs = struct.unpack_from("<QQ", raw, 8)
    keys = {text(): value(take("I")) for _ in range(pairs)}
    infos = [(text(), [take("Q") for _ in range(take("I"))][::-1], take("I"), take("Q")) for _ in range(tensors)]
    base, w = (at + 31) // 32 * 32, {}
    for name, shape, kind, offset in infos:
        count, start = int(numpy.prod(shape)), base + offset
        if kind == 0:
            numbers = numpy.frombuffer(raw, "<f4", count, start)
        else:  # blocks of 32: a half, then bytes (8: Q8_0), or low and high halves of bytes (2: Q4_0)
            b = numpy.frombuffer(raw, [("d", "<f2"), ("q", "i1", 32) if kind == 8 else ("q", "u1", 16)], count // 32, start)
            q = b["q"].astype("f4") if kind == 8 else numpy.concatenate([b["q"] & 15, b["q"] >> 4], 1).astype("f4") - 8
            numbers = q * b["d"].astype("f4")[:, None]
        w[rename(name)] = numbers.reshape(shape)
    k = lambda name: keys["llama." + name]
    return (w, k("block_count"), k("attention.head_count"), k("attention.head_count_kv"), k("rope.freq_base"),
            k("attention.layer_norm_rms_epsilon"), True)


def rename(name):
    for ours, theirs in (("blk.", "layers."), ("attn_norm", "input_layernorm"), ("ffn_norm", "post_attention_layernorm"), ("attn_output", "self_attn.o_proj"),
                         ("attn_", "self_attn."), ("ffn_", "mlp."), ("token_embd", "embed_tokens"), ("output_norm", "norm")):
        name = name.replace(ours, theirs)
    name = name.removesuffix(".weight")
    return name + "_proj" if name.split(".")[-1] in ("q", "k", "v", "gate", "up", "down") else name.replace("output", "lm_head")


def logits(model, ids):
    w, layers, heads, kv_heads, theta, eps, pairs = model
    norm = lambda x, name: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * w[name]
    x = w["embed_tokens"][ids]
    dim = x.shape[1] // heads
    angle = torch.outer(torch.arange(len(ids)).double(), theta ** (-torch.arange(0, dim, 2).double() / dim))[:, None]
    def turn(x):
        a, b = (x[..., 0::2], x[..., 1::2]) if pairs else x.chunk(2, -1)
        return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)
    for i in range(layers):
        at = f"layers.{i}."
        h = norm(x, at + "input_layernorm")
        q, k, v = ((h @ w[f"{at}self_attn.{n}_proj"].T).view(len(ids), -1, dim) for n in "qkv")
        k, v = (t.repeat_interleave(heads // kv_heads, 1).transpose(0, 1) for t in (turn(k), v))
        s = turn(q).transpose(0, 1) @ k.transpose(1, 2) / dim ** 0.5
        p = s.masked_fill(torch.ones(len(ids), len(ids)).triu(1).bool(), -torch.inf).softmax(-1)
        x = x + (p @ v).transpose(0, 1).flatten(1) @ w[at + "self_attn.o_proj"].T
        h = norm(x, at + "post_attention_layernorm")
        x = x + (torch.nn.functional.silu(h @ w[at + "mlp.gate_proj"].T) * (h @ w[at + "mlp.up_proj"].T)) @ w[at + "mlp.down_proj"].T
    return norm(x, "norm") @ w.get("lm_head", w["embed_tokens"]).T


if __name__ == "__main__":
    path, ids = sys.argv[1], [int(i) for i in sys.argv[2:]]
    model = (read_gguf if path.endswith(".gguf") else read_safetensors)(path)
    model = ({n: torch.tensor(t, dtype=torch.float64) for n, t in model[0].items()},) + model[1:]
    torch.set_num_threads(1)
    print(*logits(model, ids).argmax(1).tolist())
