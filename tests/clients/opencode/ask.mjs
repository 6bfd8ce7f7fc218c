// opencode, as `opencode serve` offers it to its own terminal and desktop programs: a session for each case.
import { spawn } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { answerCases, converse, joined, usageOf } from '../shared/asking.mjs';

const PROGRAM = fileURLToPath(new URL('node_modules/opencode-linux-x64/bin/opencode', import.meta.url));
const PROVIDERS = { chat: '@ai-sdk/openai-compatible', responses: '@ai-sdk/openai' };

let server;

// Ends the program once this script is gone, also when that was killed: its standard input ends then.
const ENDING = '"$0" serve --port 0 & cat > /dev/null; kill -KILL $!';

// One server for all cases; it is told of the gateway's models.
async function start(baseURL, model) {
  const { data = [] } = await (await fetch(`${baseURL}/models`)).json();
  const modalities = { input: ['text', 'image', 'pdf'], output: ['text'] };
  const abilities = { attachment: true, reasoning: true, tool_call: true, modalities };
  const ids = [model, ...data.map(({ id }) => id)];
  const models = Object.fromEntries(ids.map((id) => [id, { ...abilities, name: id }]));
  const provider = (npm) => ({ npm, name: 'Gateway', options: { baseURL, apiKey: 'any' }, models });
  const config = {
    autoupdate: false,
    share: 'disabled',
    permission: 'allow',
    provider: Object.fromEntries(Object.entries(PROVIDERS).map(([name, npm]) => [name, provider(npm)])),
  };
  // The demo's model fills in all of a command with one word: also the folder it is to run in.
  mkdirSync('pwd');
  writeFileSync('opencode.json', JSON.stringify(config));
  const env = { ...process.env, OPENCODE_DISABLE_MODELS_FETCH: '1', OPENCODE_DISABLE_LSP_DOWNLOAD: '1' };
  const program = spawn('sh', ['-c', ENDING, PROGRAM], { env, stdio: ['pipe', 'pipe', 'inherit'] });
  for await (const printed of program.stdout.setEncoding('utf8')) {
    const found = /listening on (\S+)/.exec(printed);
    if (found) return found[1];
  }
  throw new Error('opencode did not start');
}

async function call(path, body) {
  const init = { method: body ? 'POST' : 'GET', headers: { 'content-type': 'application/json' } };
  const response = await fetch((await server) + path, { ...init, body: body && JSON.stringify(body) });
  if (!response.ok) throw new Error(await response.text());
  return response.json();
}

const ask = (surface) => async (baseURL, asked) => {
  server ??= start(baseURL, asked.model);
  const { id } = await call('/session', {});
  const questions = [];
  return converse(asked, async (history, turn) => {
    // An edited message, or one asked again: what stood in its place is undone first, as by /undo.
    const undone = questions.splice(history.length)[0];
    if (undone) await call(`/session/${id}/revert`, { messageID: undone });
    const deltas = await listen(id, asked.stopAfter);
    const format = asked.schema && { type: 'json_schema', schema: asked.schema };
    const tools = { '*': false, bash: Boolean(asked.tools), StructuredOutput: Boolean(asked.schema) };
    const model = { providerID: surface, modelID: asked.model };
    const body = { model, parts: partsOf(turn), format, tools };
    const { info, parts } = await call(`/session/${id}/message`, body);
    const all = asked.schema ? [] : await call(`/session/${id}/message`);
    deltas.close();
    if (info.error && !asked.stopAfter) throw new Error(JSON.stringify(info.error));
    history.push(turn);
    questions.push(info.parentID);
    const used = all.flatMap((message) => message.parts).filter((part) => part.type === 'tool');
    return {
      text: joined(parts.filter((part) => part.type === 'text').map((part) => part.text)),
      pieces: deltas.texts.length,
      reasoning: joined(parts.filter((part) => part.type === 'reasoning').map((part) => part.text)),
      usage: usageOf(info.tokens.input + info.tokens.cache.read, info.tokens.output + info.tokens.reasoning),
      used: used.map(({ tool, state }) => ({ tool, input: state.input, output: state.output })),
      object: info.structured,
      finish: info.finish,
    };
  });
};

function partsOf({ text, image, document }) {
  const parts = [{ type: 'text', text }];
  if (image) parts.push({ type: 'file', mime: 'image/png', filename: 'image.png', url: image });
  if (document) {
    const url = `data:application/pdf;base64,${document.data}`;
    parts.push({ type: 'file', mime: 'application/pdf', filename: document.name, url });
  }
  return parts;
}

// The pieces of text as the terminal shows them; the session is stopped, as by Escape, after so many of them.
async function listen(id, stopAfter) {
  const left = new AbortController();
  const response = await fetch(`${await server}/event`, { signal: left.signal });
  const texts = [];
  const read = async () => {
    const kinds = {};
    let rest = '';
    for await (const data of response.body.pipeThrough(new TextDecoderStream())) {
      const lines = (rest + data).split('\n');
      rest = lines.pop();
      for (const line of lines.filter((one) => one.startsWith('data: '))) {
        const { type, properties } = JSON.parse(line.slice(6));
        if (properties.sessionID !== id && properties.part?.sessionID !== id) continue;
        if (type === 'message.part.updated') kinds[properties.part.id] = properties.part.type;
        if (type !== 'message.part.delta' || kinds[properties.partID] !== 'text') continue;
        texts.push(properties.delta);
        if (texts.length === stopAfter) await call(`/session/${id}/abort`, {});
      }
    }
  };
  read().catch((error) => error.name === 'AbortError' || Promise.reject(error));
  return { texts, close: () => left.abort() };
}

await answerCases({ chat: ask('chat'), responses: ask('responses') });
