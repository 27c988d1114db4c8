// @ts-check
// The builds of a binary: how each fares, and which does worse than those before it.

import { barChart } from '../../lib/charts.js';
import { bytes, count, duration, shortBuild } from '../../lib/format.js';
import { rateCell } from '../../lib/rates.js';
import { href } from '../../lib/router.js';
import { html } from '../../lib/view.js';
import { empty, when } from '../../lib/widgets.js';

/** @param {string} digest */
const code = (digest) => html`<code title=${digest}>${shortBuild(digest)}</code>`;

/** @param {import('../../lib/router.js').Query} query @param {any} report */
export function builds(query, report) {
    return 'builds' in report ? ofOneName(report) : ofAllNames(report.items);
}

/** The builds that do worse. @param {any[]} items */
export function regressionNotes(items) {
    return items.map((one) => html`<div class="note bad"><strong><a
        href=${href('/stats', { tab: 'builds', name: one.name })}>${one.name}</a> does worse</strong>
        ${one.says}.</div>`);
}

/** @param {any[]} items */
function ofAllNames(items) {
    return items.length ? html`${regressionNotes(items)}` : empty('No build does worse than those before it',
        'Choose a job name to see its builds.');
}

/** @param {any} report */
function ofOneName({ name, builds: lines, regressions, outlook }) {
    if (!lines.length) {
        return empty('No build of this job is known', 'Builds are told of jobs that have run since workers record them.');
    }
    return html`
        ${regressionNotes(regressions)}
        <section class="panel" aria-labelledby="builds">
            <h2 id="builds">Builds of ${name}</h2>
            <p class="muted">First attempts of jobs, by the build that they ran; the last build is at the top.
                ${outlook ? `${outlook[0].toUpperCase()}${outlook.slice(1)}.` : ''}</p>
            <div class="scroll" tabindex="0"><table>
                <caption class="hidden-label">Builds of ${name}</caption>
                <thead><tr>${['Build', 'First seen', 'Last seen', 'Success', 'Median time', 'against before', 'Median CPU',
                    'against before', 'Median memory', 'against before'].map((head) =>
                    html`<th scope="col">${head}</th>`)}</tr></thead>
                <tbody>${lines.map(row)}</tbody>
            </table></div>
            ${barChart({
                label: 'Median running time by build',
                bars: lines.filter((/** @type {any} */ l) => l.run_us).map((/** @type {any} */ l) => ({
                    name: shortBuild(l.digest), value: l.run_us.p50, text: duration(l.run_us.p50 / 1000) })),
            })}
        </section>
        ${failures(lines)}`;
}

/** @param {any} line */
function row(line) {
    const { against } = line;
    return html`<tr>
        <td>${code(line.digest)}</td>
        <td>${when(line.first_seen)}</td>
        <td>${when(line.last_seen)}</td>
        <td>${rateCell(line.success, `success of build ${shortBuild(line.digest)}`)}</td>
        <td class="number">${line.run_us ? duration(line.run_us.p50 / 1000) : '–'}</td>
        <td class="nowrap">${change(against?.run)}</td>
        <td class="number">${line.cpu_us ? duration(line.cpu_us.p50 / 1000) : '–'}</td>
        <td class="nowrap">${change(against?.cpu)}</td>
        <td class="number">${line.peak_kib ? bytes(line.peak_kib.p50 * 1024) : '–'}</td>
        <td class="nowrap">${change(against?.peak)}</td>
    </tr>`;
}

/** A ratio of medians in percent, with its interval. @param {any} ratio */
function change(ratio) {
    if (!ratio) return html`<span class="muted">–</span>`;
    const percent = (/** @type {number} */ part) => `${part < 1 ? '−' : '+'}${Math.abs((part - 1) * 100).toFixed(0)}`;
    return html`${percent(ratio.ratio)} % <span
        class="muted small">(${percent(ratio.low)} to ${percent(ratio.high)} %)</span>`;
}

/** @param {any[]} lines */
function failures(lines) {
    const rows = lines.flatMap((line) => line.failures.map((/** @type {any} */ failure) => ({ line, failure })));
    if (!rows.length) return null;
    return html`<section class="panel" aria-labelledby="build-failures">
        <h2 id="build-failures">What they fail with</h2>
        <div class="scroll" tabindex="0"><table>
            <caption class="hidden-label">Failures by build</caption>
            <thead><tr>${['Build', 'Attempts', '', 'Error'].map((head) =>
                html`<th scope="col">${head || html`<span class="hidden-label">New</span>`}</th>`)}</tr></thead>
            <tbody>${rows.map(({ line, failure }) => html`<tr>
                <td>${code(line.digest)}</td>
                <td class="number">${count(failure.attempts)}</td>
                <td>${failure.is_new ? html`<strong>new</strong>` : ''}</td>
                <td><a href=${href(`/failures/${failure.fingerprint}`)}>${failure.text?.split('\n')[0].slice(0, 120)
                    ?? failure.fingerprint.slice(0, 12)}</a></td>
            </tr>`)}</tbody>
        </table></div>
    </section>`;
}
