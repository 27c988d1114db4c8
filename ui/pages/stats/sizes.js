// @ts-check
// What jobs were given and what they used: cores and memory, with what would do.

import { bytes, count } from '../../lib/format.js';
import { share } from '../../lib/rates.js';
import { sortTable } from '../../lib/table.js';
import { html } from '../../lib/view.js';

const MIB = 1024 * 1024;
/** The server suggests nothing from fewer attempts. */
const ENOUGH = 20;

/** @param {number | null} mib */
const memory = (mib) => (mib === null ? '–' : bytes(mib * MIB));
/** @param {number | null} cores */
const cores = (cores) => (cores === null ? '–' : cores.toFixed(cores < 10 ? 1 : 0));

/** @param {import('../../lib/router.js').Query} query @param {any} report */
export function sizes(query, { sizes }) {
    const advice = sizes.flatMap((/** @type {any} */ line) => advise(line).map((text) => ({ name: line.name, text })));
    return html`
        <section class="panel" aria-labelledby="advice">
            <h2 id="advice">What to change</h2>
            ${advice.length ? html`<ul
                class="list">${advice.map((/** @type {any} */ { name, text }) =>
                    html`<li><strong>${name}</strong> ${text}</li>`)}</ul>`
                : html`<p class="muted">Nothing stands out: jobs use about what they are given, or fewer
                than ${ENOUGH} attempts of each name were measured.</p>`}
        </section>
        <section class="panel" aria-labelledby="cores">
            <h2 id="cores">Cores</h2>
            <p class="muted">Cores used are CPU time over wall time of an attempt. The bar is the use of the cores that
                were given, over all attempts.</p>
            ${sortTable(query, {
                label: 'Cores by job name',
                rows: /** @type {any[]} */ (sizes),
                key: (i) => i.name,
                usual: '-n',
                columns: [
                    { key: 'name', name: 'Job name', wide: true, value: (i) => i.name, cell: (i) => i.name },
                    { key: 'n', name: 'Attempts', number: true, value: (i) => i.n, cell: (i) => count(i.n) },
                    { key: 'given', name: 'Given', number: true, value: (i) => i.cores, cell: (i) => count(i.cores),
                        title: 'The cores that most attempts were given' },
                    { key: 'p50', name: 'Used, p50', number: true, value: (i) => i.cores_used.p50,
                        cell: (i) => cores(i.cores_used.p50) },
                    { key: 'p99', name: 'p99', number: true, value: (i) => i.cores_used.p99,
                        cell: (i) => cores(i.cores_used.p99) },
                    { key: 'use', name: 'Use', value: (i) => i.utilisation, cell: (i) => use(i.utilisation) },
                    { key: 'do', name: 'Would do', number: true, value: (i) => i.suggested_cores,
                        cell: (i) => suggested(i.suggested_cores, i.n, count) },
                ],
            })}
        </section>
        <section class="panel" aria-labelledby="memory">
            <h2 id="memory">Memory</h2>
            <p class="muted">Peaks of resident memory. The bar is the 99th percentile of the peak over the limit.</p>
            ${sortTable(query, {
                label: 'Memory by job name',
                rows: /** @type {any[]} */ (sizes),
                key: (i) => i.name,
                usual: '-n',
                param: 'memory-sort',
                columns: [
                    { key: 'name', name: 'Job name', wide: true, value: (i) => i.name, cell: (i) => i.name },
                    { key: 'n', name: 'Attempts', number: true, value: (i) => i.n, cell: (i) => count(i.n) },
                    { key: 'limit', name: 'Limit', number: true, value: (i) => i.memory_limit_mib,
                        cell: (i) => i.memory_limit_mib === null ? html`<span class="muted">none</span>`
                            : memory(i.memory_limit_mib) },
                    { key: 'p50', name: 'Peak, p50', number: true, value: (i) => i.memory_mib.p50,
                        cell: (i) => memory(i.memory_mib.p50) },
                    { key: 'p99', name: 'p99', number: true, value: (i) => i.memory_mib.p99,
                        cell: (i) => memory(i.memory_mib.p99) },
                    { key: 'use', name: 'Use', value: (i) => i.memory_used.p99, cell: (i) => use(i.memory_used.p99) },
                    { key: 'oom', name: 'Out of memory', number: true, value: (i) => i.out_of_memory,
                        cell: (i) => count(i.out_of_memory) },
                    { key: 'do', name: 'Would do', number: true, value: (i) => i.suggested_memory_mib,
                        cell: (i) => suggested(i.suggested_memory_mib, i.n, memory) },
                ],
            })}
        </section>`;
}

/** @param {number | null} part */
function use(part) {
    if (part === null) return html`<span class="muted">–</span>`;
    return html`<span class="rate"><span class="meter accent use"><span
        style=${{ width: `${Math.min(100, part * 100)}%` }}></span></span><span
            class="nowrap">${share(part)}</span></span>`;
}

/** @param {number | null} value @param {number} n @param {(value: number | null) => string} format */
function suggested(value, n, format) {
    if (value !== null) return format(value);
    return html`<span class="muted">${n < ENOUGH ? 'too few' : '–'}</span>`;
}

/** What stands out of one job name, in sentences. @param {any} line @returns {string[]} */
function advise(line) {
    /** @type {string[]} */
    const all = [];
    const { memory_limit_mib: limit, suggested_memory_mib: enough, memory_mib: peak, out_of_memory: oom } = line;
    const { cores: given, suggested_cores: few, cores_used: busy } = line;
    if (given !== null && few !== null && few < given) {
        all.push(`is given ${given} cores and keeps ${cores(busy.p50)} busy at the median: ` +
            `--cores ${few} would do, and leave room for other jobs.`);
    }
    if (oom > 0) {
        const times = `${count(oom)} ${oom === 1 ? 'time' : 'times'}`;
        const at = limit === null ? '' : ` with a limit of ${memory(limit)}`;
        all.push(`ran out of memory ${times}${at}: give it more. ` +
            'What it needs is not known, as an attempt that was killed shows its limit.');
    } else if (limit !== null && enough !== null && limit > 2 * enough) {
        all.push(`may take ${memory(limit)} of memory and peaks at ${memory(peak.p99)} (99 of 100 attempts): ` +
            `--memory ${enough}M would do.`);
    } else if (limit !== null && line.memory_used.p99 !== null && line.memory_used.p99 > 0.9) {
        all.push(`comes to ${share(line.memory_used.p99)} of its memory limit of ${memory(limit)}: ` +
            'more room would be safer.');
    } else if (limit === null && enough !== null && peak.p99 >= 1024) {
        all.push(`has no memory limit and peaks at ${memory(peak.p99)}: ` +
            `--memory ${enough}M would keep one job from taking the memory of all.`);
    }
    return all;
}
