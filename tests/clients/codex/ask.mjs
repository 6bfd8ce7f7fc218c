// OpenAI's Codex CLI: `codex exec`, one command a turn, and `codex app-server`, which its IDE extensions and the app use.
import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { answerCases, converse, joined, usageOf } from '../shared/asking.mjs';

const PROGRAM = fileURLToPath(new URL('node_modules/@openai/codex/bin/codex.js', import.meta.url));

function homeFor(baseURL, { model }) {
  const home = `${process.cwd()}/codex-home`;
  mkdirSync(home, { recursive: true });
  const lines = [
    `model = "${model}"`,
    'model_provider = "gateway"',
    'model_reasoning_summary = "detailed"',
    '[model_providers.gateway]',
    'name = "gateway"',
    `base_url = "${baseURL}"`,
    'wire_api = "responses"',
    'env_key = "GATEWAY_KEY"',
  ];
  writeFileSync(`${home}/config.toml`, lines.join('\n'));
  return home;
}

function start(home, words, input) {
  const environment = { ...process.env, CODEX_HOME: home, GATEWAY_KEY: 'any' };
  return spawn(process.execPath, [PROGRAM, ...words], { env: environment, stdio: [input, 'pipe', 'inherit'] });
}

function exec(baseURL, asked) {
  const home = homeFor(baseURL, asked);
  return converse(asked, async (history, turn) => {
    const resumed = history.length > 0 ? ['resume', history.at(-1)] : [];
    const options = ['--skip-git-repo-check', '--json', ...files(asked, turn)];
    const events = await printed(start(home, ['exec', ...resumed, ...options, '--', turn.text], 'ignore'));
    const failed = events.find((event) => event.type === 'turn.failed');
    if (failed) throw new Error(failed.error.message);
    history.push(events.find((event) => event.type === 'thread.started').thread_id);
    const items = events.filter((event) => event.type === 'item.completed').map((event) => event.item);
    const { usage } = events.find((event) => event.type === 'turn.completed');
    const text = joined(items.filter((item) => item.type === 'agent_message').map((item) => item.text));
    return {
      text,
      object: asked.schema && JSON.parse(text),
      reasoning: joined(items.filter((item) => item.type === 'reasoning').map((item) => item.text)),
      commands: items.filter((item) => item.type === 'command_execution').map((item) => item.command),
      usage: usageOf(usage.input_tokens, usage.output_tokens),
    };
  });
}

// The options with files: an image, the schema of the last message.
function files({ schema }, { image }) {
  const options = [];
  const folder = mkdtempSync(`${process.cwd()}/files-`);
  if (image) {
    writeFileSync(`${folder}/image.png`, Buffer.from(image.split(',')[1], 'base64'));
    options.push('--image', `${folder}/image.png`);
  }
  if (schema) {
    writeFileSync(`${folder}/schema.json`, JSON.stringify(schema));
    options.push('--output-schema', `${folder}/schema.json`);
  }
  return options;
}

// The events that it prints, a line each.
async function printed(codex) {
  const events = [];
  for await (const line of createInterface({ input: codex.stdout })) {
    if (line.startsWith('{')) events.push(JSON.parse(line));
  }
  return events;
}

// The app server's messages are JSON lines: requests of ours with an id, and its notifications.
class AppServer {
  constructor(home) {
    this.process = start(home, ['app-server'], 'pipe');
    this.waiting = new Map();
    this.take = () => undefined;
    this.number = 0;
    createInterface({ input: this.process.stdout }).on('line', (line) => {
      if (!line.startsWith('{')) return;
      const message = JSON.parse(line);
      if (message.method) return this.take(message.method, message.params);
      const { resolve, reject } = this.waiting.get(message.id);
      if (message.error) reject(new Error(message.error.message));
      else resolve(message.result);
    });
  }

  send(message) {
    this.process.stdin.write(`${JSON.stringify(message)}\n`);
  }

  request(method, params) {
    this.number += 1;
    const answered = new Promise((resolve, reject) => this.waiting.set(this.number, { resolve, reject }));
    this.send({ id: this.number, method, params });
    return answered;
  }
}

async function appServer(baseURL, asked) {
  const server = new AppServer(homeFor(baseURL, asked));
  try {
    await server.request('initialize', { clientInfo: { name: 'under-test', title: null, version: '1' } });
    server.send({ method: 'initialized' });
    const { thread } = await server.request('thread/start', { cwd: process.cwd() });
    let threadId = thread.id;
    let last;
    return await converse(asked, async (history, turn) => {
      const before = history.at(-1);
      if (before !== last) {
        // An earlier message is edited in a fork of the thread.
        const forked = await server.request('thread/fork', { threadId, lastTurnId: before });
        threadId = forked.thread.id;
      }
      const answer = await oneTurn(server, threadId, asked, turn);
      last = answer.turnId;
      history.push(last);
      return answer;
    });
  } finally {
    server.process.kill();
  }
}

async function oneTurn(server, threadId, asked, { text, image }) {
  const pieces = [];
  const thoughts = [];
  const commands = [];
  let usage;
  let failure;
  let turnId;
  const ended = new Promise((done) => {
    server.take = (method, params) => {
      if (method === 'item/agentMessage/delta') {
        pieces.push(params.delta);
        if (pieces.length === asked.stopAfter) server.request('turn/interrupt', { threadId, turnId });
      } else if (method === 'item/completed') {
        if (params.item.type === 'reasoning') thoughts.push(...params.item.summary);
        if (params.item.type === 'commandExecution') commands.push(params.item.command);
      } else if (method === 'thread/tokenUsage/updated') usage = params.tokenUsage.last;
      else if (method === 'turn/started') turnId = params.turn.id;
      else if (method === 'error' && !params.willRetry) failure = params.error.message;
      else if (method === 'turn/completed') done(params.turn);
    };
  });
  const input = [{ type: 'text', text, text_elements: [] }];
  if (image) input.push({ type: 'image', url: image });
  await server.request('turn/start', { threadId, input, outputSchema: asked.schema });
  const turn = await ended;
  if (turn.status === 'failed') throw new Error(turn.error?.message ?? failure);
  const whole = joined(pieces);
  return {
    turnId,
    text: whole,
    pieces: pieces.length,
    object: asked.schema && JSON.parse(whole),
    reasoning: joined(thoughts),
    commands,
    usage: usage && usageOf(usage.inputTokens, usage.outputTokens),
  };
}

await answerCases({ exec, 'app server': appServer });
