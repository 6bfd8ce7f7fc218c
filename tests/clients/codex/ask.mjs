// OpenAI's Codex CLI, run for one task after the other; a later turn resumes the session.
import { spawn } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { answerCases, converse, joined, usageOf } from '../shared/asking.mjs';

const PROGRAM = fileURLToPath(new URL('node_modules/@openai/codex/bin/codex.js', import.meta.url));

function ask(baseURL, asked) {
  const home = `${process.cwd()}/codex-home`;
  mkdirSync(home, { recursive: true });
  const lines = [
    `model = "${asked.model}"`,
    'model_provider = "gateway"',
    '[model_providers.gateway]',
    'name = "gateway"',
    `base_url = "${baseURL}"`,
    'wire_api = "responses"',
    'env_key = "GATEWAY_KEY"',
  ];
  writeFileSync(`${home}/config.toml`, lines.join('\n'));
  return converse(asked, async (history, { text }) => {
    const resumed = history.length > 0 ? ['resume', history.at(-1)] : [];
    const events = await run(home, ['exec', '--skip-git-repo-check', '--json', ...resumed, text]);
    const failed = events.find((event) => event.type === 'turn.failed');
    if (failed) throw new Error(failed.error.message);
    history.push(events.find((event) => event.type === 'thread.started').thread_id);
    const items = events.filter((event) => event.type === 'item.completed').map((event) => event.item);
    const { usage } = events.find((event) => event.type === 'turn.completed');
    return {
      text: joined(items.filter((item) => item.type === 'agent_message').map((item) => item.text)),
      commands: items.filter((item) => item.type === 'command_execution').map((item) => item.command),
      usage: usageOf(usage.input_tokens, usage.output_tokens),
    };
  });
}

// The events that it prints, a line each.
function run(home, words) {
  return new Promise((done) => {
    const environment = { ...process.env, CODEX_HOME: home, GATEWAY_KEY: 'any' };
    const codex = spawn(process.execPath, [PROGRAM, ...words], { env: environment, stdio: ['ignore', 'pipe', 'inherit'] });
    let printed = '';
    codex.stdout.on('data', (data) => (printed += data));
    codex.on('close', () => done(printed.split('\n').filter((line) => line.startsWith('{')).map((line) => JSON.parse(line))));
  });
}

await answerCases({ responses: ask });
