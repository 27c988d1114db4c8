// @ts-check
// One error: what it says, where it belongs, when it came, what is similar, and the jobs that met it.

import { actOnMany } from '../lib/act-on-jobs.js';
import { dayColumns, trendOf } from '../lib/figures.js';
import { count } from '../lib/format.js';
import { mayAct } from '../lib/api.js';
import { groupList } from '../lib/groups.js';
import { bind } from '../lib/keys.js';
import { putInto } from '../lib/put-into.js';
import { href } from '../lib/router.js';
import { resource } from '../lib/scope.js';
import { signal } from '../lib/signals.js';
import { each, html } from '../lib/view.js';
import { action, at, copy, empty, jobLink, loading, problemNote, stateMark, toast, when } from '../lib/widgets.js';

const DAYS = 30;
const TREND = `Failed attempts by the day on which their jobs were submitted, last ${DAYS} days`;
/** After a change of the categories the page looks again so often, in ms from the change. */
const LOOKS = [1000, 2500, 5000, 10_000];

/** @type {import('../lib/router.js').Page} */
export default function failure({ scope, params, title }) {
    const { fingerprint } = params;
    title(`Failure ${fingerprint.slice(0, 8)}`);
    const found = resource(scope, () => ['/failures', { fingerprint, trend: DAYS, limit: 1 }], { every: 30_000 });
    const group = () => found.data.value?.items[0] ?? null;
    /** Each look for similar errors may cost a request to an embedder, so only a new text makes one. */
    const text = signal('');
    scope.effect(() => {
        text.value = group()?.text ?? '';
    });
    const similar = resource(scope, () => (text.value ? ['/failures/similar', { text: text.value, limit: 6 }] : null));
    const jobs = resource(scope, () => (group() ? ['/jobs', { fingerprint, limit: 10 }] : null), { every: 15_000 });
    const threshold = resource(scope, () => ['/categories']);
    const put = signal(/** @type {import('../lib/put-into.js').Put | null} */ (null));

    /** @param {import('../lib/act-on-jobs.js').Selection} selection @param {string} what */
    const retry = async (selection, what) => {
        if (await actOnMany('retry', selection, what)) await jobs.reload();
    };
    const retryThese = () => retry({ fingerprint }, 'failed jobs with this error');
    const putThis = async () => {
        const done = await putInto(text.peek(), group()?.category);
        if (!done) return;
        put.value = done;
        toast(`Added to ${done.name}`);
        const timers = LOOKS.map((ms) => setTimeout(() => found.reload(), ms));
        scope.onEnd(() => timers.forEach(clearTimeout));
    };
    bind(scope, {
        c: ['Put this into a category', () => mayAct() && group() && putThis()],
        r: ['Retry these', () => mayAct() && group() && retryThese()],
    });

    return () => html`
        <div class="row between">
            <div class="row"><h1>Failure <span class="mono">${fingerprint.slice(0, 8)}</span></h1></div>
            <div class="row">
                ${() => (group() ? html`
                    <a class="button" href=${href('/jobs', { fingerprint })}>All jobs with it</a>
                    ${action('Put into a category …', putThis)}
                    ${action('Retry these …', retryThese, { kind: 'primary' })}` : null)}
            </div>
        </div>
        ${() => problemNote(found.error.value, found.data.value !== null)}
        ${() => (found.data.value ? null : found.error.value ? null : loading)}
        ${() => (found.data.value && !group() ? empty('No such error',
            html`No attempt that is counted has failed with ${fingerprint.slice(0, 16)}.${' '}<a
                href=${href('/failures')}>See all failures.</a>`) : null)}
        ${() => (group() ? about(group(), put.value, threshold.data.value?.threshold) : null)}
        ${() => (group() ? html`<section class="panel" aria-labelledby="trend"><h2 id="trend">Trend</h2>
            ${trendOf(group().trend).length
                ? dayColumns({ label: TREND, days: trendOf(group().trend) })
                : html`<p class="muted">The server does not tell it by day.</p>`}
        </section>` : null)}
        ${() => (group() ? html`<section class="panel" aria-labelledby="jobs">
            <div class="row between"><h2 id="jobs">Jobs that met it</h2><a href=${href('/jobs', { fingerprint })}>See
                all</a></div>
            ${problemNote(jobs.error.value, jobs.data.value !== null)}
            ${jobs.data.value ? jobTable(jobs.data.value.items) : jobs.error.value ? null : loading}
        </section>` : null)}
        ${() => (group() ? html`<section class="panel" aria-labelledby="similar">
            <h2 id="similar">Similar errors</h2>
            ${problemNote(similar.error.value)}
            ${similar.data.value
                ? groupList(similar.data.value.items.filter((/** @type {any} */ g) => g.fingerprint !== fingerprint),
                    { retry, nearness: true, days: DAYS }) : similar.error.value ? null : loading}
        </section>` : null)}`;
}

/** @param {any} group @param {import('../lib/put-into.js').Put | null} put @param {number | undefined} threshold */
function about(group, put, threshold) {
    return html`<section class="panel" aria-label="What it is">
        <pre class="code" tabindex="0" aria-label="What the first attempt said">${group.text ||
            'What it said is no longer kept.'}</pre>
        ${put ? told(put, group) : null}
        <dl class="facts">
            <dt>Category</dt><dd><a
                href=${href('/failures', { category: group.category })}>${group.category_name}</a> ${nearness(group,
                    threshold)}</dd>
            <dt>Failed attempts</dt><dd>${count(group.count)}</dd>
            <dt>First seen</dt><dd>${group.first_seen ? html`${at(group.first_seen)} (${when(group.first_seen)})`
                : 'not known'}</dd>
            <dt>Last seen</dt><dd>${group.last_seen ? html`${at(group.last_seen)} (${when(group.last_seen)})`
                : 'not known'}</dd>
            <dt>Job names</dt><dd>${group.names.length
                ? group.names.map((/** @type {string} */ name, /** @type {number} */ i) =>
                    html`<span>${i ? ', ' : ''}<a href=${href('/failures', { name })}>${name}</a></span>`)
                        : 'not known'}</dd>
            <dt>Last jobs</dt><dd class="row">${group.samples.map((/** @type {string} */ id) => jobLink(id))}</dd>
            <dt>Fingerprint</dt><dd class="row"><code>${group.fingerprint}</code><button class="small"
                @click=${() => copy(group.fingerprint)}>Copy<span class="hear"> the fingerprint</span></button></dd>
        </dl>
    </section>`;
}

/** @param {any} group @param {number | undefined} threshold */
function nearness(group, threshold) {
    if (group.category === 'pending') return html`<span class="muted">The classifier has not worked it out yet.</span>`;
    if (group.similarity === undefined) return null;
    const needs = threshold === undefined ? '' : `, it needs ${threshold.toFixed(2)}`;
    return html`<span class="muted">${group.category === 'uncategorised'
        ? `Its nearest category has similarity ${group.similarity.toFixed(2)}${needs}.`
        : `Similarity ${group.similarity.toFixed(2)}${needs}.`}</span>`;
}

/** @param {import('../lib/put-into.js').Put} put @param {any} group */
function told(put, group) {
    return group.category === put.id
        ? html`<div class="note" role="status">It belongs to <strong>${put.name}</strong> now.</div>`
        : html`<div class="note" role="status">The text is an example of <strong>${put.name}</strong>. It takes
        effect ${put.takes_effect}.</div>`;
}

/** @param {any[]} items */
function jobTable(items) {
    if (!items.length) return html`<p class="muted">The jobs that met it are no longer kept.</p>`;
    return html`<div class="scroll" tabindex="0" role="group" aria-label="The last of these jobs"><table>
        <thead><tr><th scope="col">Now</th><th scope="col">Job</th><th scope="col">Name</th><th scope="col"
            class="number">Attempts</th><th scope="col">Submitted</th></tr></thead>
        <tbody>${each(items, (job) => job.id, (job) => html`<tr>
            <td>${stateMark(job.state, job.outcome)}</td>
            <td class="nowrap">${jobLink(job.id)}</td>
            <td class="wide">${job.name}</td>
            <td class="number">${count(job.attempts)}</td>
            <td class="nowrap">${when(job.submitted_at)}</td>
        </tr>`)}</tbody>
    </table></div>`;
}
