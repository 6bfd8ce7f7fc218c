// What the scripts for Node.js share: `SCRIPT BASE_URL` answers each line of its input, a case, with a line.
import { createInterface } from 'node:readline';

export const RESULT = 'It is 7 degrees.';

export const WEATHER = {
  name: 'get_weather',
  description: 'The weather of a city.',
  parameters: {
    type: 'object',
    properties: { city: { type: 'string' }, unit: { type: 'string', enum: ['C', 'F'] } },
    required: ['city', 'unit'],
    additionalProperties: false,
  },
};

export async function answerCases(surfaces) {
  const [origin] = process.argv.slice(2);
  for await (const line of createInterface({ input: process.stdin })) {
    const asked = JSON.parse(line);
    let answer;
    try {
      answer = await surfaces[asked.surface](`${origin}/v1`, asked);
    } catch (error) {
      answer = { error: String(error.stack ?? error) };
    }
    process.stdout.write(`${JSON.stringify(answer)}\n`);
  }
  process.exit();
}

// The last answer, with the texts of all. `turn` adds to the history what was asked and what came; a turn that keeps
// only so many of the earlier ones is an edited message, or an answer made anew.
export async function converse({ turns }, turn) {
  const history = [];
  const starts = [];
  const texts = [];
  let answer;
  for (const asked of turns) {
    const kept = asked.keep ?? starts.length;
    if (kept < starts.length) history.length = starts[kept];
    starts.length = Math.min(starts.length, kept);
    starts.push(history.length);
    answer = await turn(history, asked);
    texts.push(answer.text);
  }
  return { ...answer, texts };
}

export function userContent({ text, image, document }) {
  const parts = [{ type: 'text', text }];
  if (image) parts.push({ type: 'image_url', image_url: { url: image } });
  if (document) parts.push({ type: 'file', file: { filename: document.name, file_data: dataUri(document) } });
  return parts.length > 1 ? parts : text;
}

export function inputContent({ text, image, document }) {
  const parts = [{ type: 'input_text', text }];
  if (image) parts.push({ type: 'input_image', image_url: image, detail: 'auto' });
  if (document) parts.push({ type: 'input_file', filename: document.name, file_data: dataUri(document) });
  return parts.length > 1 ? parts : text;
}

const dataUri = ({ data }) => `data:application/pdf;base64,${data}`;

export const usageOf = (input, output, total) => ({ input, output, total });

export const joined = (parts) => parts.filter(Boolean).join('');
