// Continue's command line, run for one message after the other; a later one resumes the session.
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { answerCases, converse, usageOf } from '../shared/asking.mjs';

const PROGRAM = fileURLToPath(new URL('node_modules/@continuedev/cli/dist/cn.js', import.meta.url));
const UNUSED = ['Read', 'List', 'Bash', 'Fetch', 'Checklist', 'CheckBackgroundJob', 'AskQuestion', 'Exit', 'Skills'];

function ask(baseURL, asked) {
  const folder = mkdtempSync(`${process.cwd()}/case-`);
  const config = {
    ...{ name: 'gateway', version: '1.0.0', schema: 'v1' },
    models: [{ name: 'gateway', provider: 'openai', model: asked.model, apiBase: baseURL, apiKey: 'any', roles: ['chat'] }],
  };
  writeFileSync(`${folder}/config.yaml`, JSON.stringify(config));
  const tools = asked.tools ? ['--allow', 'Write', ...UNUSED.flatMap((name) => ['--exclude', name])] : [];
  return converse(asked, async (history, { text }) => {
    const resumed = history.length > 0 ? ['--resume'] : [];
    const stopped = asked.stopAfter && new URL('/metrics', baseURL);
    const words = ['--config', `${folder}/config.yaml`, ...tools, ...resumed, '-p', text];
    const { printed, failed } = await run(folder, words, stopped);
    if (failed && !stopped) throw new Error(failed);
    history.push(text);
    if (stopped) return { text: printed };
    const [name] = readdirSync(`${folder}/sessions`).filter((one) => one !== 'sessions.json');
    const messages = JSON.parse(readFileSync(`${folder}/sessions/${name}`)).history;
    const { usage } = messages.at(-1).message;
    return {
      text: printed.trim(),
      used: messages.flatMap((one) => one.toolCallStates ?? []).map((state) => state.toolCall.function),
      usage: usage && usageOf(usage.prompt_tokens, usage.completion_tokens),
      files: readdirSync(folder),
    };
  });
}

// What it prints; with an address of metrics, it gets Ctrl-C once the gateway has a stream for it.
function run(folder, words, metrics) {
  return new Promise((done) => {
    const env = { ...process.env, CONTINUE_GLOBAL_DIR: folder, CONTINUE_METRICS_ENABLED: '0' };
    const options = { env, cwd: folder, stdio: ['ignore', 'pipe', 'pipe'] };
    const cn = spawn(process.execPath, [PROGRAM, ...words], options);
    const [printed, complained] = [[], []];
    cn.stdout.on('data', (data) => printed.push(data));
    cn.stderr.on('data', (data) => complained.push(data));
    const timer = metrics && setInterval(async () => {
      if (/^flowise_proxy_streams_open [1-9]/m.test(await (await fetch(metrics)).text())) cn.kill('SIGINT');
    }, 200);
    cn.on('close', (code) => {
      clearInterval(timer);
      done({ printed: printed.join(''), failed: code === 0 ? '' : complained.join('') || `it ended with ${code}` });
    });
  });
}

await answerCases({ chat: ask });
