// Prometheus' text as numbers, and what changed between two readings of it.
const LINE = /^flowise_proxy_(\w+)(?:\{(.*)\})? (\S+)$/;
const LABEL = /(\w+)="((?:\\.|[^"\\])*)"/g;

/** The samples of a text: name, labels, value. */
export function parse(text) {
  const samples = [];
  for (const line of text.split('\n')) {
    const [, name, labels, value] = LINE.exec(line) ?? [];
    if (name) samples.push({ name, labels: Object.fromEntries([...(labels ?? '').matchAll(LABEL)].map(([, key, text_]) => [key, text_])), value: Number(value) });
  }
  return samples;
}

const sum = (samples, name, wanted = () => true) => samples.reduce(
  (total, sample) => (sample.name === name && wanted(sample.labels) ? total + sample.value : total), 0);

const FINE = ['ok', 'client_gone'];

/** The numbers that are drawn; totals grow, the others are of now. */
export function reading(text) {
  const samples = parse(text);
  const buckets = new Map();
  for (const { name, labels, value } of samples) {
    if (name === 'first_token_seconds_bucket') buckets.set(Number(labels.le.replace('+Inf', 'Infinity')), (buckets.get(Number(labels.le.replace('+Inf', 'Infinity'))) ?? 0) + value);
  }
  return {
    requests: sum(samples, 'requests_total'),
    errors: sum(samples, 'requests_total', ({ outcome }) => !FINE.includes(outcome)),
    tokens: sum(samples, 'tokens_total', ({ direction }) => direction === 'output'),
    streams: sum(samples, 'streams_open'),
    runs: sum(samples, 'runs_open'),
    buckets: [...buckets].sort(([one], [other]) => one - other),
  };
}

/** A quantile of the first tokens between two readings, as Prometheus reckons it; null where there was none. */
export function quantile(before, after, share) {
  const earlier = new Map(before.buckets);
  const counts = after.buckets.map(([bound, count]) => [bound, count - (earlier.get(bound) ?? 0)]);
  const total = counts.at(-1)?.[1] ?? 0;
  if (total <= 0) return null;
  let [low, below] = [0, 0];
  for (const [bound, count] of counts) {
    if (count >= share * total) return bound === Infinity ? low : low + ((bound - low) * (share * total - below)) / (count - below);
    [low, below] = [bound, count];
  }
  return low;
}
