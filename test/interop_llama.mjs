// Greedy tokens of llama.cpp (npm node-llama-cpp): interop_llama.mjs MODULES MODEL.gguf COUNT TEXT. Prints the ids of
// TEXT as the file's tokenizer has them, then COUNT ids that follow, and their text, as JSON.
import {createRequire} from "node:module";
import {pathToFileURL} from "node:url";

const [modules, path, count, text] = process.argv.slice(2);
const entry = createRequire(modules + "/").resolve("node-llama-cpp");
const {getLlama, LlamaLogLevel} = await import(pathToFileURL(entry));
const llama = await getLlama({build: "never", gpu: false, logLevel: LlamaLogLevel.error});
const model = await llama.loadModel({modelPath: path});
const context = await model.createContext({contextSize: 512, threads: 1});
const prompt = [model.tokens.bos, ...model.tokenize(text)];
const ids = [];
for await (const id of context.getSequence().evaluate(prompt, {temperature: 0})) {
    ids.push(id);
    if (ids.length >= Number(count))
        break;
}
console.log(JSON.stringify({prompt, ids, text: model.detokenize(ids)}));
process.exit(0);
