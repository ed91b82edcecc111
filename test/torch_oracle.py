#!/usr/bin/python3
"""Gradients of every tensor against PyTorch's autograd in float64, from the same fp32 weights and tokens.

usage: torch_oracle.py DUMP_GRADS (the program built from dump_grads.c). Exit code 77: PyTorch is not installed.
A tensor passes when |g - g_torch| <= 1e-5 |g_torch|, or where the true gradient is zero (GPT-2's key bias: softmax does
not see it) when the difference is below 1e-7 of the largest gradient norm.
"""
import subprocess
import sys
import tempfile

try:
    import numpy
    import torch
    import torch.nn.functional as F
except ImportError as missing:
    print(f"skipped: {missing} (Debian: apt install python3-torch python3-numpy)")
    sys.exit(77)

TOLERANCE = 1e-5


def read_index(directory):
    config, tensors = {}, []
    for line in open(f"{directory}/index.txt", encoding="utf-8"):
        key, *rest = line.split()
        if key == "tensor":
            name, rows, columns, offset = rest[0], int(rest[1]), int(rest[2]), int(rest[3])
            tensors.append((name, (rows, columns) if columns else (rows,), offset))
        else:
            config[key] = rest[0] if key == "family" else float(rest[0]) if "." in rest[0] or "e" in rest[0] else int(rest[0])
    return config, tensors


def read_floats(path, tensors, grad):
    flat = numpy.fromfile(path, dtype="<f4").astype("f8")
    out = {}
    for name, shape, offset in tensors:
        count = int(numpy.prod(shape))
        out[name] = torch.tensor(flat[offset : offset + count].reshape(shape), requires_grad=grad)
    return out


def attention(q, k, v):
    """q (B, H, T, D); k, v (B, KV, T, D)"""
    repeat, length = q.shape[1] // k.shape[1], q.shape[2]
    k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
    scores = q @ k.transpose(2, 3) / q.shape[3] ** 0.5
    scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), float("-inf"))
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def rms_norm(x, weight, eps):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def rotate(x, theta):
    length, dim = x.shape[2], x.shape[3]
    frequency = float(theta) ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angle = torch.outer(torch.arange(length, dtype=torch.float64), frequency)
    angle = torch.cat((angle, angle), -1)
    half = torch.cat((-x[..., dim // 2 :], x[..., : dim // 2]), -1)
    return x * angle.cos() + half * angle.sin()


def llama(c, w, tokens):
    def linear(x, name):
        return F.linear(x, w[name + ".weight"], w.get(name + ".bias"))

    def heads(x, n):
        return x.unflatten(-1, (n, c["head_dim"])).transpose(1, 2)

    x = w["model.embed_tokens.weight"][tokens]
    for i in range(c["layers"]):
        p = f"model.layers.{i}."
        h = rms_norm(x, w[p + "input_layernorm.weight"], c["norm_eps"])
        q, k, v = (linear(h, p + f"self_attn.{n}_proj") for n in "qkv")
        q, k = rotate(heads(q, c["heads"]), c["rope_theta"]), rotate(heads(k, c["kv_heads"]), c["rope_theta"])
        x = x + linear(attention(q, k, heads(v, c["kv_heads"])), p + "self_attn.o_proj")
        h = rms_norm(x, w[p + "post_attention_layernorm.weight"], c["norm_eps"])
        x = x + linear(F.silu(linear(h, p + "mlp.gate_proj")) * linear(h, p + "mlp.up_proj"), p + "mlp.down_proj")
    x = rms_norm(x, w["model.norm.weight"], c["norm_eps"])
    return x @ w.get("lm_head.weight", w["model.embed_tokens.weight"]).T


def gpt2(c, w, tokens):
    def norm(x, name):
        return F.layer_norm(x, (c["dim"],), w[name + ".weight"], w[name + ".bias"], c["norm_eps"])

    def conv(x, name):
        return x @ w[name + ".weight"] + w[name + ".bias"]

    def gelu(x):
        return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))

    x = w["transformer.wte.weight"][tokens] + w["transformer.wpe.weight"][: tokens.shape[1]]
    for i in range(c["layers"]):
        p = f"transformer.h.{i}."
        q, k, v = conv(norm(x, p + "ln_1"), p + "attn.c_attn").split(c["dim"], -1)
        q, k, v = (t.unflatten(-1, (c["heads"], c["head_dim"])).transpose(1, 2) for t in (q, k, v))
        x = x + conv(attention(q, k, v), p + "attn.c_proj")
        x = x + conv(gelu(conv(norm(x, p + "ln_2"), p + "mlp.c_fc")), p + "mlp.c_proj")
    return norm(x, "transformer.ln_f") @ w.get("lm_head.weight", w["transformer.wte.weight"]).T


def parts(name, gradient):
    """c_attn.bias in its q, k, v thirds: the middle one's true gradient is zero."""
    if name.endswith("c_attn.bias"):
        return [(f"{name}[{third}]", part) for third, part in zip("qkv", gradient.chunk(3))]
    return [(name, gradient)]


def compare(directory):
    config, tensors = read_index(directory)
    weights = read_floats(f"{directory}/weights.bin", tensors, True)
    ours = read_floats(f"{directory}/gradients.bin", tensors, False)
    shape = (config["sequences"], config["length"])
    tokens = torch.tensor(numpy.fromfile(f"{directory}/tokens.bin", dtype="<i4").astype("i8")).view(shape)
    targets = torch.tensor(numpy.fromfile(f"{directory}/targets.bin", dtype="<i4").astype("i8")).view(-1)
    logits = (llama if config["family"] == "llama" else gpt2)(config, weights, tokens)
    losses = F.cross_entropy(logits.flatten(0, 1), targets, ignore_index=-1, reduction="none")
    (losses.sum() / targets.numel()).backward()
    difference = abs(losses.detach().numpy() - numpy.fromfile(f"{directory}/losses.bin", dtype="<f8")).max()
    if difference > 1e-5:
        return [f"losses differ by {difference:.2e}"], 0.0
    largest = max(w.grad.norm().item() for w in weights.values())
    failures, worst = [], 0.0
    for name, _, _ in tensors:
        for (label, want), (_, got) in zip(parts(name, weights[name].grad), parts(name, ours[name])):
            difference, norm = (got - want).norm().item(), want.norm().item()
            zero = norm < 1e-12 * largest
            worst = max(worst, 0.0 if zero else difference / norm)
            if difference > (1e-7 * largest if zero else TOLERANCE * norm):
                failures.append(f"{label}: difference {difference:.3e} of {norm:.3e}")
    return failures, worst


def main():
    program, bad = sys.argv[1], 0
    for case in subprocess.run([program, "--list"], check=True, capture_output=True, text=True).stdout.split():
        with tempfile.TemporaryDirectory() as directory:
            subprocess.run([program, case, directory], check=True)
            failures, worst = compare(directory)
        print(f"{case}: " + (f"every tensor within {worst:.1e}" if not failures else "; ".join(failures)))
        bad += bool(failures)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
