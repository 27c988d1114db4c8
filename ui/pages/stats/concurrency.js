// @ts-check
// Whether jobs fare worse when they are started while others run on their host.

import { count } from '../../lib/format.js';
import { rateCell, share } from '../../lib/rates.js';
import { sortTable } from '../../lib/table.js';
import { html } from '../../lib/view.js';

/** @typedef {{ difference: number, low: number, high: number }} Difference */

/** @param {import('../../lib/router.js').Query} query @param {any} report */
export function concurrency(query, report) {
    return html`
        <section class="panel" aria-labelledby="crowd">
            <h2 id="crowd">Do jobs fare worse beside others?</h2>
            <p class="verdict">${verdict(report)}</p>
            <dl class="facts">
                <dt>Started alone</dt><dd>${rateCell(report.alone, 'First attempts started alone that succeeded')}</dd>
                <dt>Started beside
                    others</dt><dd>${rateCell(report.beside,
                        'First attempts started beside others that succeeded')}</dd>
                <dt>Difference within job
                    names</dt><dd>${difference(report.within_names,
                        `over ${count(report.names)} ${report.names === 1 ? 'name' : 'names'} that have both`)}</dd>
                <dt>Difference over
                    all</dt><dd>${difference(report.difference,
                        'blames the crowd for what kinds of jobs run in crowds')}</dd>
                ${report.left_out ? html`<dt>Left out</dt><dd>${count(report.left_out)} first attempts of an older
                version, which did not note what ran beside them</dd>` : null}
            </dl>
            <p class="muted small">First attempts that succeeded. Jobs were not put alone or beside others by lot, so a
                difference need not be an effect: what makes a machine busy may make jobs fail too.</p>
        </section>
        <section class="panel" aria-labelledby="levels">
            <h2 id="levels">By the most jobs beside</h2>
            <p class="muted">This only describes. Long jobs and retried ones have had more beside them at some time, so
                they stand in the high rows without any effect.</p>
            ${sortTable(query, {
                label: 'By the most jobs beside',
                rows: /** @type {any[]} */ (report.levels),
                key: (l) => l.jobs_beside,
                usual: 'beside',
                columns: [
                    { key: 'beside', name: 'Jobs beside', number: true, value: (l) => l.jobs_beside,
                        cell: (l) => count(l.jobs_beside) },
                    { key: 'completed', name: 'Jobs that completed', value: (l) => l.completed.rate,
                        cell: (l) => rateCell(l.completed, `With ${l.jobs_beside} beside, jobs that completed`) },
                    { key: 'succeeded', name: 'Attempts that succeeded', value: (l) => l.succeeded.rate,
                        cell: (l) => rateCell(l.succeeded, `With ${l.jobs_beside} beside, attempts that succeeded`) },
                ],
            })}
        </section>`;
}

/** @param {any} report */
function verdict({ within_names: within, alone, beside }) {
    if (!within) {
        return beside.n === 0 ? 'No job was started beside another yet.' : alone.n === 0
            ? 'No job was started alone yet.'
            : 'Not known: too few jobs of one name were started both alone and beside others.';
    }
    if (within.low > 0) {
        return `Yes: started alone, ${points(within.difference)} more of them succeed ` +
            `(${points(within.low)} to ${points(within.high)}). Fewer slots may help.`;
    }
    if (within.high < 0) {
        return `No: started beside others, ${points(-within.difference)} more of them succeed ` +
            `(${points(-within.high)} to ${points(-within.low)}).`;
    }
    return `Not shown: the difference lies between ${points(within.low)} and ${points(within.high)}, and may be none.`;
}

/** @param {number} part */
const points = (part) => `${part < 0 ? '−' : ''}${share(Math.abs(part))}`.replace(' %', ' points');

/** @param {Difference | null} d @param {string} what */
function difference(d, what) {
    if (!d) return html`<span class="muted">not known: too few of either</span>`;
    const [width, height] = [120, 14];
    const most = Math.max(0.1, Math.abs(d.low), Math.abs(d.high));
    const x = (/** @type {number} */ part) => width / 2 + ((width / 2 - 2) * part) / most;
    const sign = d.difference > 0 ? '+' : '';
    const label = `${sign}${points(d.difference)}, 95 % interval ${points(d.low)} to ${points(d.high)}`;
    return html`<span class="rate">
        <svg class="band" viewBox="0 0 ${width} ${height}" role="img" aria-label=${label}>
            <line class="grid" x1="2" x2=${width - 2} y1=${height / 2} y2=${height / 2} />
            <line class="grid" x1=${width / 2} x2=${width / 2} y1="0" y2=${height} />
            <rect class="range" x=${x(d.low)} y="3" width=${Math.max(1, x(d.high) - x(d.low))} height=${height - 6} />
            <line class="value" x1=${x(d.difference)} x2=${x(d.difference)} y1="1" y2=${height - 1} />
        </svg>
        <span>${sign}${points(d.difference)}</span>
        <span class="muted small">(${points(d.low)} to ${points(d.high)}), ${what}</span>
    </span>`;
}
