// @ts-check
// What a job was given and gave back, under which rules it runs, and which jobs it waits for.

import { segment, session } from '../../lib/api.js';
import { bytes, count, duration } from '../../lib/format.js';
import { href } from '../../lib/router.js';
import { html } from '../../lib/view.js';
import { at, copy, jobLink } from '../../lib/widgets.js';

/** The most characters of a value that are shown. */
const MOST = 100_000;

/** @param {any} job */
export function dataView(job) {
    if (session.value?.hides_data) {
        return html`<div class="note">This server hides from viewers what jobs are given and give back.</div>`;
    }
    const command = job.arguments?.length ? [job.name, ...job.arguments].map(quoted).join(' ') : '';
    return html`
        <section class="panel" aria-labelledby="arguments">
            ${heading('arguments', 'Arguments', command)}
            ${
                job.arguments?.length
                    ? html`<ol class="list arguments">${job.arguments.map((/** @type {string} */ text) =>
                        html`<li><code>${text === '' ? html`<span class="muted">(empty)</span>`
                            : text}</code></li>`)}</ol>`
                    : html`<p class="muted">It has none.</p>`
            }
        </section>
        ${value('data', 'Data', 'On its standard input it got this JSON.', job.data, 'It got no data.')}
        ${value('result', 'Result', '', job.result, ['completed', 'failed'].includes(job.state) ? 'It gave no result.'
            : 'It has not ended yet.')}`;
}

/** @param {string} id @param {string} title @param {string} about @param {any} json @param {string} none */
function value(id, title, about, json, none) {
    const has = json !== null && json !== undefined;
    const text = has ? (typeof json === 'string' ? json : JSON.stringify(json, null, 2)) : '';
    return html`<section class="panel" aria-labelledby=${id}>
        ${heading(id, title, text)}
        ${
            has
                ? html`
            ${about ? html`<p class="muted">${about}</p>` : null}
            <pre class="code" tabindex="0" aria-label=${title}>${text.slice(0, MOST)}</pre>
            ${text.length > MOST
                ? html`<p class="muted small">These are the first ${count(MOST)} of ${count(text.length)} characters.
                    "Copy" takes all.</p>` : null}`
                : html`<p class="muted">${none}</p>`
        }
    </section>`;
}

/** @param {string} id @param {string} title @param {string} text what "Copy" copies */
function heading(id, title, text) {
    return html`<div class="row between"><h2 id=${id}>${title}</h2>
        ${text ? html`<button class="small" aria-label="Copy ${title.toLowerCase()}"
            @click=${() => copy(text)}>Copy</button>` : null}</div>`;
}

/** An argument as a shell wants it. @param {string} text */
function quoted(text) {
    return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

/**
 * The names of options for people; what is not here is shown as it is.
 * @type {Record<string, [string, (value: any) => unknown]>}
 */
const OPTIONS = {
    attempts: ['Attempts', (n) => `${n} at most`],
    backoff: ['Between attempts', backoff],
    delay_ms: ['Delay', duration],
    priority: ['Priority', (n) => (n ? `${n} (1 comes before 2, and jobs without before all)` : 'none')],
    queue: ['Queue', String],
    group: ['Group', (name) => html`<a href=${href(`/groups/${segment(name)}`)}>${name}</a>`],
    group_limit: ['Limit of its group', (n) => `${count(n)} at once`],
    array_index: ['Index in its array', String],
    timeout_ms: ['Timeout', duration],
    grace_ms: ['Between SIGTERM and SIGKILL', duration],
    cores: ['Cores', count],
    memory_bytes: ['Memory', (n) => `${bytes(n)} at most`],
    require: ['Requires', pairs],
    resources: ['Holds', pairs],
    nice: ['Niceness', String],
    no_retry_exit_codes: ['No retry after exit codes', (codes) => codes.join(', ') || 'none'],
    deduplication: [
        'Deduplication',
        (d) => html`key <code>${d.key}</code>${d.ttl_ms ? `, taken for ${duration(d.ttl_ms)}` : ''}`,
    ],
};

/** @param {Record<string, string | number>} of */
function pairs(of) {
    return Object.entries(of).map(([name, value]) => `${name}=${value}`).join(', ') || 'nothing';
}

/** @param {any} backoff */
function backoff({ type, delay_ms: delay, max_ms: max, jitter }) {
    const how =
        type === 'exponential' ? `${duration(delay)}, then twice as long each time` : `${duration(delay)} each time`;
    return `${how}${max ? `, at most ${duration(max)}`
        : ''}${jitter ? `, varied by up to ${Math.round(jitter * 100)} %` : ''}`;
}

/** How many related jobs are listed. */
const MOST_JOBS = 100;

/** @param {any} job */
export function rulesView(job) {
    const after = job.options?.after ?? [];
    const open = new Set(job.waits_for ?? []);
    const options = Object.entries(job.options ?? {}).filter(
        ([name, value]) => name !== 'after' && value !== null && value !== undefined,
    );
    return html`
        <section class="panel" aria-labelledby="rules">
            <h2 id="rules">Rules</h2>
            <dl class="facts">
                <dt>Submitted</dt><dd>${at(job.submitted_at)}</dd>
                ${job.finished_at ? html`<dt>Ended</dt><dd>${at(job.finished_at)}</dd>` : null}
                ${options.map(([name, value]) =>
                    html`<dt>${OPTIONS[name]?.[0] ?? name}</dt><dd>${OPTIONS[name] ? OPTIONS[name][1](value)
                        : JSON.stringify(value)}</dd>`)}
            </dl>
            <p class="muted small">What is not listed is decided by the configuration of the worker.</p>
        </section>
        <section class="panel" aria-labelledby="relations">
            <h2 id="relations">Relations</h2>
            ${
                after.length
                    ? html`
                <p>It starts when ${after.length === 1 ? 'this job has' : 'all of these jobs have'} completed.
                    ${after.length > 1 ? ` ${count(after.length - open.size)} of ${count(after.length)} have.` : ''}</p>
                <ul class="list relations">${after.slice(0, MOST_JOBS).map(
                    (/** @type {string} */ id) => html`
                    <li>${jobLink(id)} ${open.has(id) ? html`<span class="waiting">○ waited for</span>`
                        : html`<span class="muted">no longer waited for</span>`}</li>`,
                )}</ul>
                ${after.length > MOST_JOBS ? html`<p class="muted small">The first ${MOST_JOBS} are listed.</p>`
                    : null}`
                    : html`<p class="muted">It waits for no other job.</p>`
            }
        </section>`;
}
