// @ts-check
// CPU time that bought nothing: that of attempts that failed.

import { barChart } from '../../lib/charts.js';
import { count, duration } from '../../lib/format.js';
import { share } from '../../lib/rates.js';
import { href } from '../../lib/router.js';
import { spanOf } from '../../lib/span.js';
import { sortTable } from '../../lib/table.js';
import { html } from '../../lib/view.js';

/** Names that the chart shows. */
const MOST_BARS = 10;

/** @param {import('../../lib/router.js').Query} query @param {any} report */
export function cost(query, { items }) {
    if (!items.length) return html`<p class="muted">No attempt of these jobs has failed: no CPU time was lost.</p>`;
    /** @type {Map<string, { seconds: number, part: number }>} */
    const names = new Map();
    for (const { name, cpu_seconds: seconds, cpu_share: part } of items) {
        const so = names.get(name) ?? { seconds: 0, part: 0 };
        names.set(name, { seconds: so.seconds + seconds, part: so.part + part });
    }
    const sorted = [...names].sort((a, b) => b[1].seconds - a[1].seconds);
    const all = sorted.reduce((sum, [, { seconds }]) => sum + seconds, 0);
    const worst = items.reduce((/** @type {any} */ a, /** @type {any} */ b) => (b.cpu_seconds > a.cpu_seconds ? b : a));
    return html`
        <section class="panel" aria-labelledby="lost">
            <h2 id="lost">CPU time of failed attempts</h2>
            <p>Failed attempts took ${duration(all * 1000)} of
                CPU.${all > 0 ? html`<span> The largest part, ${share(worst.cpu_seconds / all)}, went
                into <strong>${worst.name}</strong>, for errors of ${category(worst, spanOf(query))}: look there
                first.</span>` : null}</p>
            ${barChart({
                label: 'By job name',
                bars: sorted.slice(0, MOST_BARS).map(([name, { seconds }]) =>
                    ({ name, value: seconds, tone: 'failed', text: duration(seconds * 1000) })),
            })}
        </section>
        <section class="panel" aria-labelledby="by">
            <h2 id="by">By job name and category</h2>
            ${sortTable(query, {
                label: 'CPU time by job name and category',
                rows: /** @type {any[]} */ (items),
                key: (i) => `${i.name} ${i.category}`,
                usual: '-cpu',
                columns: [
                    { key: 'name', name: 'Job name', wide: true, value: (i) => i.name, cell: (i) => i.name },
                    { key: 'category', name: 'Category', value: (i) => i.category,
                        cell: (i) => category(i, spanOf(query)) },
                    { key: 'failures', name: 'Failed attempts', number: true, value: (i) => i.failures,
                        cell: (i) => count(i.failures) },
                    { key: 'cpu', name: 'CPU', number: true, value: (i) => i.cpu_seconds,
                        cell: (i) => duration(i.cpu_seconds * 1000) },
                    { key: 'each', name: 'CPU each', number: true,
                        value: (i) => (i.failures ? i.cpu_seconds / i.failures : null),
                        cell: (i) => (i.failures ? duration((i.cpu_seconds * 1000) / i.failures) : '–') },
                    { key: 'share', name: 'Share of CPU', number: true, value: (i) => i.cpu_share,
                        cell: (i) => share(i.cpu_share),
                        title: 'Of the CPU time of all attempts of this job name' },
                ],
            })}
        </section>`;
}

/**
 * A line without a category holds the attempts that were cancelled or lost.
 * @param {any} item @param {import('../../lib/span.js').Span} span
 */
function category(item, span) {
    return item.failures === null || item.failures === undefined
        ? html`<span class="muted">no error: cancelled or lost</span>`
        : html`<a
            href=${href('/failures', { ...span, name: item.name, category: item.category })}>${item.category}</a>`;
}
