// What the scripts share: `node SCRIPT BASE_URL CASES` asks each case in turn and prints one JSON line for each.
// A case is {way, model, stream, user, questions, tools}; `ways` says how this client asks.

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

export const asks = (ways) => {
  const [baseURL, cases] = process.argv.slice(2);
  return answerAll(baseURL, JSON.parse(cases), ways);
};

async function answerAll(baseURL, cases, ways) {
  for (const asked of cases) {
    let answer;
    try {
      answer = await ways[asked.way](`${baseURL}/v1`, asked);
    } catch (error) {
      answer = { error: String(error.stack ?? error) };
    }
    console.log(JSON.stringify(answer));
  }
}

export const usageOf = (input, output, total) => ({ input, output, total });

export const joined = (parts) => parts.filter(Boolean).join('');
