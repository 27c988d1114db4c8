// @ts-check
// How long jobs wait and run.

import { logSpan, quantileTrack } from '../../lib/figures.js';
import { count, duration } from '../../lib/format.js';
import { sortTable } from '../../lib/table.js';
import { html } from '../../lib/view.js';

/** A job name whose median wait is so long, and longer than it runs, is worth a word; in seconds. */
const LONG_WAIT = 1;

/** @param {number | null} seconds */
const time = (seconds) => (seconds === null ? '–' : duration(seconds * 1000));

/** @param {import('../../lib/router.js').Query} query @param {any} report */
export function durations(query, { items }) {
    const spans = { waiting: logSpan(items.map((/** @type {any} */ i) => i.waiting)),
        running: logSpan(items.map((/** @type {any} */ i) => i.running)) };
    const quantiles = (/** @type {'waiting' | 'running'} */ what) =>
        /** @type {const} */ (['p50', 'p90', 'p99']).map((p) => ({
        key: `${what}-${p}`,
        name: p,
        number: true,
        title: `${what}: ${{ p50: 'half are shorter', p90: 'nine of ten are shorter',
            p99: '99 of 100 are shorter' }[p]}`,
        value: (/** @type {any} */ i) => i[what][p],
        cell: (/** @type {any} */ i) => time(i[what][p]),
    }));
    const table = (/** @type {'waiting' | 'running'} */ what, /** @type {string} */ label) => sortTable(query, {
        label,
        rows: items,
        key: (i) => i.name,
        param: what === 'waiting' ? 'wait-sort' : 'sort',
        usual: `-${what}-p50`,
        columns: [
            { key: 'name', name: 'Job name', wide: true, value: (i) => i.name, cell: (i) => i.name },
            { key: 'n', name: what === 'waiting' ? 'Jobs' : 'Attempts', number: true, value: (i) => i[what].n,
                cell: (i) => count(i[what].n) },
            ...quantiles(what),
            { key: 'track', name: `${time(spans[what][0])} to ${time(spans[what][1])}`,
                cell: (i) => quantileTrack(i[what], spans[what], `${i.name} ${what}`) },
        ],
    });
    const held = items.filter((/** @type {any} */ i) => i.waiting.p50 !== null && i.running.p50 !== null &&
        i.waiting.p50 >= LONG_WAIT && i.waiting.p50 > i.running.p50);
    return html`
        <section class="panel" aria-labelledby="running">
            <h2 id="running">Running</h2>
            <p class="muted">Wall time of an attempt, successful or not. The bar goes from the median (black) to the
                99th percentile, on a logarithmic scale.</p>
            ${table('running', 'Running times by job name')}
        </section>
        <section class="panel" aria-labelledby="waiting">
            <h2 id="waiting">Waiting</h2>
            <p class="muted">From the moment a job was due to its first start.</p>
            ${held.length ? html`<div
                class="note">${held.map((/** @type {any} */ i) =>
                    html`<p><strong>${i.name}</strong> waits longer than it runs: half of these jobs wait more
                    than ${time(i.waiting.p50)} for ${time(i.running.p50)} of work. More slots or workers, or a
                    priority, would shorten that.</p>`)}</div>` : null}
            ${table('waiting', 'Waiting times by job name')}
        </section>
        <p class="muted small">A quantile is off by one part in eight at most.</p>`;
}
