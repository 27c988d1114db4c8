// @ts-check
// One job of the list, in two lines.

import { mayAct } from '../../lib/api.js';
import { duration, outcome, shortId, succeeded } from '../../lib/format.js';
import { href } from '../../lib/router.js';
import { html } from '../../lib/view.js';
import { stateMark, when } from '../../lib/widgets.js';

/**
 * A job that is shown. Its view stays the same function, so that a list that is shown again leaves the row alone.
 * @typedef {{ id: string, job: import('../../lib/signals.js').Signal<any>, link: HTMLElement | null,
 *   view: () => unknown }} Row
 */

/** @param {any} job */
function time(job) {
    if (job.state === 'active' && job.started_at) return html`started ${when(job.started_at)}`;
    if (job.duration_ms !== undefined && job.duration_ms !== null) return duration(job.duration_ms);
    if (job.started_at && job.finished_at) return duration(Date.parse(job.finished_at) - Date.parse(job.started_at));
    return '';
}

/** The second line: why it failed, or how it ended. @param {any} job */
function what(job) {
    if (job.state === 'removed') return html`<span class="muted">removed</span>`;
    const end = job.outcome && !succeeded(job.outcome) ? outcome(job.outcome) : '';
    if (!job.error && !end)
        return job.due_at && job.state === 'delayed' ? html`<span class="muted">due ${when(job.due_at)}</span>` : '';
    // What a program wrote may hold colours for a terminal.
    const error = job.error?.replace(/\u001b\[[\d;:?]*[A-Za-z]/g, '');
    const tone = job.state === 'failed' ? 'bad-text' : 'muted';
    // Jobber's own words for an end say it already.
    if (!error || !end || /^(killed by signal|exited with code|timed? ?out|cancelled)/.test(error))
        return html`<span class=${tone}>${error || end}</span>`;
    return html`<span class=${tone}>${end}: ${error}</span>`;
}

/**
 * @param {Row} row
 * @param {{ isAt: boolean, isSelected: boolean, at: (row: Row) => void, toggle: (row: Row, event: Event) => void,
 *   hold: (link: any) => void }} at
 */
export function rowView(row, { isAt, isSelected, at, toggle, hold }) {
    const job = row.job.value;
    const started = time(job);
    return html`<div class="job ${isAt ? 'at' : ''} ${isSelected ? 'selected' : ''} ${job.state === 'removed' ? 'gone'
        : ''}" @focusin=${() => at(row)}>
        ${mayAct() ? html`<input type="checkbox" aria-label="Select ${job.name} ${shortId(job.id)}"
            .checked=${isSelected} @click=${(/** @type {Event} */ e) => toggle(row, e)}>` : html`<span></span>`}
        ${stateMark(job.state, job.outcome)}
        <div class="what">
            <div class="clip one"><a ref=${hold} href=${href(`/jobs/${encodeURIComponent(job.id)}`)}>${job.name} <span
                class="id muted">${shortId(job.id)}</span></a>
                ${job.arguments?.length ? html`<span class="mono muted">${job.arguments.join(' ')}</span>` : null}</div>
            <div class="clip one small">${what(job)}</div>
        </div>
        <div class="side"><div>${when(job.submitted_at)}</div>
            <div class="small muted">${started}${started && job.attempts > 1 ? ', ' : ''}${job.attempts > 1
                ? `${job.attempts} attempts` : ''}</div></div>
    </div>`;
}
