// The peer of bench/serve: llama.cpp on its CPU backend, out of npm's node-llama-cpp. serve_llama.mjs MODULES MODEL.gguf
// THREADS POSITION. Protocol: bench/serve.c's (kinds prefill, one, many). One context of 16 sequences for each way that
// it could be set up; a kind takes the way that was fastest when it was first asked for. A batch goes to llama_decode as
// it is, without drawing; seconds are llama.cpp's own count of its calls, so Node's share is left out.
import {createRequire} from "node:module";
import {createInterface} from "node:readline";
import {pathToFileURL} from "node:url";

const [modules, path, threads, position] = process.argv.slice(2);
const PREFILL = 256, STREAMS = 16, CONTEXT = 512, TRIALS = 3, POSITION = Number(position);
const FLOATS = {experimentalKvCacheKeyType: "F32", experimentalKvCacheValueType: "F32"};
const WAYS = {
    "flash attention": {flashAttention: true},
    "plain attention": {flashAttention: false},
    "plain attention, fp32 keys": {flashAttention: false, ...FLOATS},
};
const entry = createRequire(modules + "/").resolve("node-llama-cpp");
const {getLlama, LlamaLogLevel} = await import(pathToFileURL(entry));
let spent = {};
function logger(level, text) {
    for (const [, name, ms] of text.matchAll(/(prompt eval|eval) time = +([\d.]+) ms/g))
        spent[name] = Number(ms) / 1000;
}
const llama = await getLlama({build: "never", gpu: false, maxThreads: Number(threads), logLevel: LlamaLogLevel.info, logger});
const model = await llama.loadModel({modelPath: path});
const tokens = Uint32Array.from({length: PREFILL}, (_, i) => i * 7919 % 32000);

class Way {
    async start(name) {
        this.name = name;
        this.context = await model.createContext({contextSize: CONTEXT, sequences: STREAMS, batchSize: PREFILL,
                                                  threads: Number(threads), performanceTracking: true, ...WAYS[name]});
        this.ctx = this.context._ctx;
        this.ctx.setThreads(Number(threads));
        await this.decode([0], POSITION, 0);
        for (let s = 1; s < STREAMS; s++) // every sequence holds the prompt
            await this.ctx.copySequenceStateFromOtherSequence(s, 0);
        return this;
    }

    // The next tokens of sequences, at `position`; logits of the last.
    async decode(sequences, count, position) {
        this.ctx.initBatch(sequences.length * count);
        for (const s of sequences)
            this.ctx.addToBatch(s, position, tokens.subarray(0, count), Uint32Array.of(count - 1));
        await this.ctx.decodeBatch();
    }

    // Seconds that llama.cpp counted since the last call, by what it calls them.
    async timings() {
        spent = {};
        this.ctx.printTimings();
        while (!("eval" in spent))
            await new Promise((done) => setTimeout(done, 1));
        return spent;
    }

    async run(kind, count) {
        const sequences = Array.from({length: kind === "many" ? STREAMS : 1}, (_, s) => s);
        const length = kind === "prefill" ? PREFILL : 1;
        const first = kind === "prefill" ? 0 : POSITION;
        for (const s of sequences)
            this.ctx.removeTokenCellsFromSequence(s, first, -1);
        await this.timings();
        for (let i = 0; i < count; i++) {
            if (kind === "prefill")
                this.ctx.removeTokenCellsFromSequence(0, 0, -1);
            await this.decode(sequences, length, kind === "prefill" ? 0 : POSITION + i);
        }
        const seconds = (await this.timings())[kind === "one" ? "eval" : "prompt eval"];
        return {tokens: count * sequences.length * length, seconds, way: this.name};
    }
}

const ways = [], chosen = {};
for (const name of Object.keys(WAYS))
    ways.push(await new Way().start(name));
console.log(JSON.stringify({ready: true, llama_cpp: llama.llamaCppRelease.release, threads: ways[0].ctx.getThreads()}));

async function choose(kind) {
    const best = ways.map(() => Infinity), count = kind === "one" ? 16 : 2;
    for (let i = 0; i < TRIALS; i++)
        for (let w = 0; w < ways.length; w++)
            best[w] = Math.min(best[w], (await ways[w].run(kind, count)).seconds);
    return ways[best.indexOf(Math.min(...best))];
}

for await (const line of createInterface({input: process.stdin})) {
    const [kind, count] = line.split(" ");
    chosen[kind] ??= await choose(kind);
    console.log(JSON.stringify(await chosen[kind].run(kind, Number(count))));
}
process.exit(0);
