// What OpenAI's client for JavaScript offers beside asking: models, stored and background responses, helpers.
import OpenAI, { AzureOpenAI } from 'openai';
import { makeParseableResponseFormat, makeParseableTextFormat } from 'openai/lib/parser';
import { joined, RESULT, WEATHER } from '../shared/asking.mjs';

const LAST = ['completed', 'failed', 'cancelled', 'incomplete'];
const WAIT_MS = 30_000;

export async function called(baseURL, asked) {
  const sent = [];
  const counting = (url, init) => {
    // The client looks with `data:` whether this function takes forms.
    if (!String(url).startsWith('data:')) sent.push(url);
    return fetch(url, init);
  };
  return CALLS[asked.call](new OpenAI({ apiKey: 'any', baseURL, fetch: counting }), asked, sent);
}

// How the client reports a refusal.
async function refused(call) {
  try {
    await call();
  } catch (error) {
    if (!(error instanceof OpenAI.APIError)) throw error;
    return { status: error.status, code: error.code, param: error.param };
  }
  return { status: 200 };
}

async function models(client, { model }) {
  const ids = [];
  for await (const one of client.models.list()) ids.push(one.id);
  const { id } = await client.models.retrieve(model);
  return { ids, one: id, unknown: await refused(() => client.models.retrieve('no-such-model')) };
}

async function stored(client, { model, question }) {
  const first = await client.responses.create({ model, input: question });
  const items = [];
  for await (const item of client.responses.inputItems.list(first.id)) items.push(item);
  const found = await client.responses.retrieve(first.id);
  await client.responses.delete(first.id);
  const gone = await refused(() => client.responses.retrieve(first.id));
  return { text: first.output_text, found: found.output_text, items, gone };
}

async function background(client, { model, question }) {
  let response = await client.responses.create({ model, input: question, background: true });
  const first = response.status;
  const deadline = Date.now() + WAIT_MS;
  while (!LAST.includes(response.status) && Date.now() < deadline) {
    await new Promise((done) => setTimeout(done, 100));
    response = await client.responses.retrieve(response.id);
  }
  return { first, last: response.status, text: response.output_text };
}

// Reads a background response's stream as far as its first words.
async function firstWords(client, model, input) {
  const pieces = [];
  let id;
  let last;
  for await (const event of await client.responses.create({ model, input, background: true, stream: true })) {
    last = event.sequence_number;
    if (event.type === 'response.created') id = event.response.id;
    if (event.type === 'response.output_text.delta') {
      pieces.push(event.delta);
      break;
    }
  }
  return { id, last, pieces };
}

async function resumed(client, { model, question }) {
  const { id, last, pieces } = await firstWords(client, model, question);
  for await (const event of await client.responses.retrieve(id, { stream: true, starting_after: last })) {
    if (event.type === 'response.output_text.delta') pieces.push(event.delta);
  }
  return { text: joined(pieces), found: (await client.responses.retrieve(id)).output_text };
}

async function cancelled(client, { model }) {
  const { id } = await firstWords(client, model, 'slow');
  return { status: (await client.responses.cancel(id)).status };
}

async function counted(client, { model }) {
  const talk = [
    { role: 'user', content: 'First of all' },
    { role: 'assistant', content: 'Yes' },
  ];
  const { input_tokens } = await client.responses.inputTokens.count({ model, input: talk });
  const { output } = await client.responses.compact({ model, input: talk });
  const response = await client.responses.create({ model, input: [...output, { role: 'user', content: 'At last' }] });
  return { tokens: input_tokens, text: response.output_text };
}

async function parsed(client, { model, schema }) {
  const question = 'The weather in Paris';
  const format = { type: 'json_schema', name: 'weather', strict: true, schema };
  const response = await client.responses.parse({
    model,
    input: question,
    text: { format: makeParseableTextFormat(format, JSON.parse) },
  });
  const chat = await client.chat.completions.parse({
    model,
    messages: [{ role: 'user', content: question }],
    response_format: makeParseableResponseFormat({ type: 'json_schema', json_schema: format }, JSON.parse),
  });
  return { objects: [chat.choices[0].message.parsed, response.output_parsed] };
}

async function raw(client, { model, question }) {
  const request = { model, messages: [{ role: 'user', content: question }] };
  const { data, response } = await client.chat.completions.create(request).withResponse();
  const streaming = await client.chat.completions.create(request).asResponse();
  return {
    header: response.headers.get('x-request-id'),
    id: data._request_id,
    streaming: streaming.headers.get('x-request-id'),
    bytes: (await streaming.text()).length,
  };
}

async function azure(client, { model, question }) {
  const request = { model, input: question };
  const endpoint = client.baseURL.replace(/\/v1$/, '');
  const dated = new AzureOpenAI({ apiKey: 'any', endpoint, apiVersion: '2025-04-01-preview' });
  const whole = await dated.responses.create(request);
  const streamed = await dated.responses.stream(request).finalResponse();
  const other = client.withOptions({ baseURL: client.baseURL.replace(/\/v1$/, '/openai/v1') });
  const chat = await other.chat.completions.create({ model, messages: [{ role: 'user', content: question }] });
  const response = await other.responses.create(request);
  return { texts: [whole.output_text, streamed.output_text, chat.choices[0].message.content, response.output_text] };
}

async function toolRunner(client) {
  const calls = [];
  const { name, description, parameters } = WEATHER;
  const runner = client.chat.completions.runTools({
    model: 'prompted',
    messages: [{ role: 'user', content: 'Use get_weather for Paris' }],
    tools: [
      {
        type: 'function',
        function: {
          name,
          description,
          parameters,
          parse: JSON.parse,
          function: (given) => {
            calls.push(given);
            return RESULT;
          },
        },
      },
    ],
  });
  return { text: await runner.finalContent(), calls };
}

async function unserved(client, { model }, sent) {
  const file = { role: 'user', content: [{ type: 'file', file: { file_id: 'file-1' } }] };
  const upload = new File(['x'], 'notes.txt');
  const refusals = {
    'files.list': await refused(() => client.files.list()),
    'files.create': await refused(() => client.files.create({ file: upload, purpose: 'user_data' })),
    'conversations.create': await refused(() => client.conversations.create()),
    'embeddings.create': await refused(() => client.embeddings.create({ model, input: 'a' })),
    file_id: await refused(() => client.chat.completions.create({ model, messages: [file] })),
  };
  return { refusals, sent: sent.length };
}

const CALLS = {
  models,
  stored,
  background,
  resumed,
  cancelled,
  counted,
  parsed,
  raw,
  azure,
  'tool runner': toolRunner,
  unserved,
};
