// The peer of bench/serve: llama.cpp on its CPU backend, out of npm's node-llama-cpp. serve_llama.mjs MODULES MODEL.gguf
// THREADS. Protocol: bench/serve.c's (kinds prefill, one, many). One context of 16 sequences; a batch goes to
// llama_decode as it is, without drawing; seconds are llama.cpp's own count of its calls, so Node's share is left out.
import {createRequire} from "node:module";
import {createInterface} from "node:readline";
import {pathToFileURL} from "node:url";

const [modules, path, threads] = process.argv.slice(2);
const PREFILL = 256, STREAMS = 16, CONTEXT = 512;
const entry = createRequire(modules + "/").resolve("node-llama-cpp");
const {getLlama, LlamaLogLevel} = await import(pathToFileURL(entry));
let spent = null;
const llama = await getLlama({build: "never", gpu: false, maxThreads: Number(threads), logLevel: LlamaLogLevel.info, logger(level, text) {
    for (const [, name, ms] of text.matchAll(/(prompt eval|eval) time = +([\d.]+) ms/g))
        (spent ??= {})[name] = Number(ms) / 1000;
}});
const model = await llama.loadModel({modelPath: path});
const context = await model.createContext({contextSize: CONTEXT, sequences: STREAMS, batchSize: PREFILL, threads: Number(threads),
                                           flashAttention: "auto", performanceTracking: true});
const ctx = context._ctx;
ctx.setThreads(Number(threads));
const tokens = Uint32Array.from({length: PREFILL}, (_, i) => i * 7919 % 32000);

// The next tokens of `streams` sequences, at `position`; logits of the last.
async function decode(streams, count, position) {
    ctx.initBatch(streams * count);
    for (let s = 0; s < streams; s++)
        ctx.addToBatch(s, position, tokens.subarray(0, count), Uint32Array.of(count - 1));
    await ctx.decodeBatch();
}

async function forget(streams, from) {
    for (let s = 0; s < streams; s++)
        ctx.removeTokenCellsFromSequence(s, from, -1);
}

async function timings(name) {
    spent = null;
    ctx.printTimings();
    for (let i = 0; i < 500 && !(spent && "eval" in spent); i++)
        await new Promise((done) => setTimeout(done, 1));
    return spent?.[name];
}

const held = new Set(); // sequences that hold the prompt
async function hold(streams) {
    for (let s = 0; s < streams; s++)
        if (!held.has(s)) {
            ctx.initBatch(PREFILL);
            ctx.addToBatch(s, 0, tokens, Uint32Array.of(PREFILL - 1));
            await ctx.decodeBatch();
            held.add(s);
        }
    await forget(streams, PREFILL);
}

console.log(JSON.stringify({ready: true, llama_cpp: llama.llamaCppRelease, threads: ctx.getThreads()}));
for await (const line of createInterface({input: process.stdin})) {
    const [kind, count] = line.split(" "), streams = kind === "many" ? STREAMS : 1;
    if (kind === "prefill")
        held.delete(0);
    else
        await hold(streams);
    await timings("");
    let wall = 0;
    for (let i = 0; i < Number(count); i++) {
        if (kind === "prefill")
            await forget(1, 0);
        const start = performance.now();
        await decode(streams, kind === "prefill" ? PREFILL : 1, kind === "prefill" ? 0 : PREFILL + i);
        wall += (performance.now() - start) / 1000;
    }
    if (kind === "prefill")
        held.add(0);
    const own = await timings(kind === "one" ? "eval" : "prompt eval");
    console.log(JSON.stringify({tokens: Number(count) * streams * (kind === "prefill" ? PREFILL : 1), seconds: own || wall, wall}));
}
process.exit(0);
