// What the server does now, from /metrics, read every few seconds while somebody looks at this page.
import { call } from './api.js';
import { h, seconds, svg } from './dom.js';
import { quantile, reading } from './metrics.js';
import { needsKey, state } from './state.js';

const EVERY = 3000;
const KEPT = 200; // ten minutes
const [WIDTH, HEIGHT] = [300, 72];

const rate = (name) => (before, after) => (after[name] - before[name]) / ((after.at - before.at) / 1000);
const perSecond = (value) => `${value === 0 || value >= 10 ? Math.round(value) : value.toFixed(1)}/s`;
const counted = (number, one, many) => `${number.toLocaleString('en')} ${number === 1 ? one : many}`;
const CHARTS = [
  { id: 'requests', title: 'Requests', value: rate('requests'), text: perSecond },
  { id: 'streams', title: 'Streams open', value: (_, after) => after.streams, text: String },
  { id: 'tokens', title: 'Tokens written', value: rate('tokens'), text: perSecond },
  { id: 'errors', title: 'Errors', value: rate('errors'), text: perSecond, isBad: true },
  { id: 'first-token', title: 'First token, median', value: (before, after) => quantile(before, after, 0.5), text: seconds },
  { id: 'first-token-95', title: 'First token, p95', value: (before, after) => quantile(before, after, 0.95), text: seconds },
];

export function liveSection() {
  let readings = [];
  let timer = null;
  const charts = h('div', { class: 'charts' });
  const note = h('p', { class: 'muted' }, 'Reading the metrics …');
  const totals = h('p', null);
  const element = h('div', null, h('div', { class: 'row' }, h('h1', null, 'Live'), h('span', { class: 'spacer' }), note), charts, totals,
    h('p', { class: 'muted' }, 'From ', h('code', null, '/metrics'), ', which Prometheus reads as well; several workers are told as their sum. ',
      'Drawn from the moment this section was first opened, ten minutes at most.'));

  let wantsMore = false;
  async function read() {
    clearTimeout(timer);
    if (needsKey()) {
      readings = [];
      wantsMore = false;
      charts.replaceChildren();
      totals.textContent = '';
      note.replaceChildren(h('a', { href: '#/keys' }, 'Enter a key'), ' to see what the server does.');
      return;
    }
    if (!document.hidden) {
      try {
        const text = await (await call('/metrics')).text();
        const now = { at: performance.now(), ...reading(text) };
        // After a restart everything is counted from 0.
        if (readings.length && now.requests < readings.at(-1).requests) readings = [];
        readings = [...readings, now].slice(-KEPT);
        note.textContent = readings.length > 1 ? `The last ${seconds(Math.round((now.at - readings[0].at) / 1000))}` : 'Reading the metrics …';
        totals.textContent = `Since the start: ${counted(now.requests, 'request', 'requests')}, ${counted(now.errors, 'error', 'errors')}, ${counted(now.tokens, 'token', 'tokens')} written.`;
        charts.replaceChildren(...CHARTS.map((each) => chart(each, readings)));
      } catch (error) {
        if ([401, 403, 404].includes(error.status)) wantsMore = false;
        note.textContent = error.status === 404 ? 'Metrics are off (PROXY_METRICS=off).' : `${error.message} (${error.code})`;
      }
    }
    if (wantsMore) timer = setTimeout(read, EVERY);
  }

  // Once somebody has looked, it is read on behind the other sections: what was tried there is seen here.
  const begin = () => {
    if (wantsMore || state.isLoading) return;
    wantsMore = true;
    read();
  };
  state.addEventListener('change', () => { if (element.isConnected) begin(); });
  return { title: 'Live', element, entered: begin };
}

function chart({ id, title, value, text, isBad }, readings) {
  const values = readings.slice(1).map((after, number) => value(readings[number], after));
  const known = values.filter((each) => each !== null);
  const most = Math.max(...known, 0);
  const now = known.at(-1);
  const shown = now === undefined ? 'none yet' : text(now);
  const label = `${title}: ${shown}${now === undefined ? '' : `, peak ${text(most)}`}`;
  return h('figure', { class: `chart ${isBad && most > 0 ? 'bad' : ''}`, 'data-chart': id },
    h('figcaption', null, h('span', null, title), h('strong', null, shown), h('span', { class: 'muted' }, known.length ? `peak ${text(most)}` : '')),
    svg('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: 'img', 'aria-label': label, preserveAspectRatio: 'none' }, ...drawn(values, most)));
}

function drawn(values, most) {
  const slots = Math.max(values.length - 1, 20);
  const at = (value, number) => [
    (WIDTH - ((values.length - 1 - number) * WIDTH) / slots).toFixed(1), (HEIGHT - 2 - (value / (most || 1)) * (HEIGHT - 8)).toFixed(1)];
  const points = values.flatMap((value, number) => (value === null ? [] : [at(value, number)]));
  const base = svg('line', { x1: 0, x2: WIDTH, y1: HEIGHT - 1, y2: HEIGHT - 1, class: 'base' });
  if (!points.length) return [base];
  const line = points.map((point) => point.join(',')).join(' L');
  const dots = points.length === 1 || values.includes(null) ? points.map(([cx, cy]) => svg('circle', { cx, cy, r: 2.5 })) : [];
  return [base, svg('path', { d: `M${points[0][0]},${HEIGHT} L${line} L${points.at(-1)[0]},${HEIGHT} Z`, class: 'area' }), svg('path', { d: `M${line}`, class: 'line' }), ...dots];
}
