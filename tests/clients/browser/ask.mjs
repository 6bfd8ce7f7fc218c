// A page of another origin in Chromium, whose script asks by `fetch` and reads the events of a stream itself.
import { createServer } from 'node:http';
import { chromium } from 'playwright-core';
import { answerCases, converse, joined, RESULT, usageOf, userContent, WEATHER } from '../shared/asking.mjs';

const PROGRAMS = [process.env.CHROMIUM, '/usr/bin/chromium', '/usr/bin/google-chrome'].filter(Boolean);

async function openPage() {
  const server = createServer((_, response) => response.setHeader('Content-Type', 'text/html').end('<title>a page</title>'));
  await new Promise((listening) => server.listen(0, '127.0.0.1', listening));
  let failure;
  for (const executablePath of PROGRAMS) {
    try {
      const browser = await chromium.launch({ executablePath, args: ['--no-sandbox'] });
      const page = await browser.newPage();
      await page.goto(`http://127.0.0.1:${server.address().port}/`);
      return page;
    } catch (error) {
      failure = error;
    }
  }
  throw failure;
}

const opened = openPage();

// Runs in the page: the whole answer's message, or that of a stream's chunks.
async function fetched({ url, body, stopAfter }) {
  const leaving = new AbortController();
  const response = await fetch(url, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json', Authorization: 'Bearer any' },
    body: JSON.stringify(body),
    signal: leaving.signal,
  });
  if (!response.ok) throw new Error(`${response.status} ${await response.text()}`);
  if (!response.headers.get('x-request-id')) throw new Error('the page may not read x-request-id');
  if (!body.stream) return { whole: await response.json() };
  const deltas = [];
  let usage;
  let finish;
  let waiting = '';
  let pieces = 0;
  for await (const text of response.body.pipeThrough(new TextDecoderStream())) {
    const lines = (waiting + text).split('\n');
    waiting = lines.pop();
    for (const line of lines) {
      if (!line.startsWith('data: ') || line === 'data: [DONE]') continue;
      const chunk = JSON.parse(line.slice('data: '.length));
      if (chunk.error) throw new Error(chunk.error.message);
      for (const choice of chunk.choices) {
        deltas.push(choice.delta);
        finish = choice.finish_reason ?? finish;
        if (choice.delta.content) pieces += 1;
      }
      usage = chunk.usage ?? usage;
      if (pieces === stopAfter) {
        leaving.abort();
        return { deltas };
      }
    }
  }
  return { deltas, usage, finish, pieces };
}

function ask(baseURL, asked) {
  const url = `${baseURL}/chat/completions`;
  return converse(asked, async (history, turn) => {
    history.push({ role: 'user', content: userContent(turn) });
    const answer = await one(url, asked, history);
    if (!answer.toolCalls?.length) return answer;
    for (const { id } of answer.toolCalls) history.push({ role: 'tool', tool_call_id: id, content: RESULT });
    return { ...(await one(url, asked, history)), toolCalls: answer.toolCalls };
  });
}

async function one(url, asked, messages) {
  const { model, user, stream, stopAfter, schema } = asked;
  const body = { model, user, messages, stream };
  if (stream) body.stream_options = { include_usage: true };
  if (asked.tools) body.tools = [{ type: 'function', function: WEATHER }];
  if (schema) body.response_format = { type: 'json_schema', json_schema: { name: 'weather', strict: true, schema } };
  const page = await opened;
  const { whole, deltas, usage, finish, pieces } = await page.evaluate(fetched, { url, body, stopAfter });
  if (!whole && usage === undefined) return { text: joined(deltas.map((delta) => delta.content)) };
  const message = whole?.choices[0].message ?? putTogether(deltas);
  const { content, tool_calls } = message;
  messages.push(tool_calls?.length ? { role: 'assistant', content, tool_calls } : { role: 'assistant', content });
  const { prompt_tokens, completion_tokens, total_tokens } = whole?.usage ?? usage;
  return {
    text: content ?? '',
    pieces,
    object: schema && JSON.parse(content),
    reasoning: message.reasoning_content ?? '',
    toolCalls: (tool_calls ?? []).map((call) => ({
      id: call.id,
      name: call.function.name,
      arguments: JSON.parse(call.function.arguments),
    })),
    sources: (message.annotations ?? []).map((annotation) => annotation.url_citation.url),
    usage: usageOf(prompt_tokens, completion_tokens, total_tokens),
    finish: whole?.choices[0].finish_reason ?? finish,
  };
}

function putTogether(deltas) {
  const calls = [];
  for (const { index, id, function: called } of deltas.flatMap((delta) => delta.tool_calls ?? [])) {
    calls[index] ??= { id, type: 'function', function: { name: '', arguments: '' } };
    calls[index].function.name += called.name ?? '';
    calls[index].function.arguments += called.arguments ?? '';
  }
  return {
    content: joined(deltas.map((delta) => delta.content)),
    reasoning_content: joined(deltas.map((delta) => delta.reasoning_content)),
    annotations: deltas.flatMap((delta) => delta.annotations ?? []),
    tool_calls: calls,
  };
}

await answerCases({ chat: ask });
