// @ts-check
// A group of jobs as one: how far it is, its results, cancelling what is left of it, retrying what has failed.

import { actOnMany } from '../lib/act-on-jobs.js';
import { url, segment } from '../lib/api.js';
import { count } from '../lib/format.js';
import { jobs } from '../lib/rates.js';
import { href } from '../lib/router.js';
import { resource } from '../lib/scope.js';
import { html } from '../lib/view.js';
import { action, at, empty, loading, problemNote, when } from '../lib/widgets.js';

/** In the order of a job's life, from its end: the bar grows from the left. */
const STATES = ['completed', 'failed', 'active', 'prioritized', 'waiting', 'delayed'];
const OPEN = ['active', 'prioritized', 'waiting', 'delayed'];

/** @type {import('../lib/router.js').Page} */
export default function group({ scope, params, title }) {
    const { group: name } = params;
    title(`Group ${name}`);
    const path = `/groups/${segment(name)}`;
    const group = resource(scope, () => [path], { every: 2000 });
    const left = () => OPEN.reduce((sum, state) => sum + (group.data.value?.[state] ?? 0), 0);

    const cancel = async () => {
        const which = `the jobs of ${name} that have not ended`;
        if (await actOnMany('cancel', { group: name, state: OPEN }, which)) await group.reload();
    };
    const retry = async () => {
        const which = `the failed jobs of ${name}`;
        if (await actOnMany('retry', { group: name, state: ['failed'] }, which)) await group.reload();
    };

    return () => html`
        <div class="row between">
            <h1>Group ${name}</h1>
            <div class="row">${() => (group.data.value?.total ? html`
                ${action('Retry failed …', retry, { disabled: !group.data.value.failed })}
                ${action('Cancel the rest …', cancel, { kind: 'danger', disabled: !left() })}` : null)}</div>
        </div>
        ${() => (group.error.value?.status === 404 ? unknown(name)
            : problemNote(group.error.value, group.data.value !== null))}
        ${() => (group.data.value ? (group.error.value?.status === 404 ? null : standing(group.data.value, path))
            : group.error.value ? null : loading)}`;
}

/** @param {any} group @param {string} path */
function standing(group, path) {
    const { group: name, total, completed, failed, progress } = group;
    const isOver = completed + failed === total;
    return html`
        <section class="panel" aria-label="Progress">
            <div class="row between">
                <strong>${count(completed + failed)} of ${jobs(total)} ${total === 1 ? 'has' : 'have'} ended</strong>
                <span class="number">${progress} %</span>
            </div>
            ${bar(group)}
            ${group.behind ? html`<p class="muted">History has not caught up yet: there may be more.</p>` : null}
            <dl class="facts">
                <dt>First submitted</dt><dd>${at(group.submitted_at)}</dd>
                <dt>${isOver ? 'Last ended' : 'Last that has ended'}</dt><dd>${group.finished_at ? html`${at(
                    group.finished_at)} (${when(group.finished_at)})` : html`<span class="muted">none yet</span>`}</dd>
            </dl>
        </section>
        <div class="tiles">${STATES.map((state) => html`
            <a class="tile" href=${href('/jobs', { state, group: name })}>
                <span class="${state} small">${state}</span><span class="big">${count(group[state])}</span></a>`)}
        </div>
        <div class="row">
            <a class="button" href=${href('/jobs', { group: name })}>All its jobs</a>
            <a class="button" href=${url(`${path}/results`)} download="${name}.jsonl">Download the results as JSON
                lines</a>
        </div>
        <p class="muted small">Jobs that were removed, or that history has let go of, are in none of these.</p>`;
}

/** The parts of the whole. The tiles say the same in numbers. @param {any} group */
function bar(group) {
    const parts = STATES.filter((state) => group[state] > 0);
    const words = parts.map((state) => `${count(group[state])} ${state}`).join(', ');
    return html`<div class="parts" role="img" aria-label=${words || 'no jobs'}>${parts.map((state) => html`
        <span class=${state} title="${count(group[state])} ${state}"
            style=${{ width: `${(100 * group[state]) / group.total}%` }}></span>`)}
    </div>`;
}

/** @param {string} name */
function unknown(name) {
    return empty('No such group', html`History has no job of the group <code>${name}</code>. A group is there from its
        first job on.`, `jobber submit hello --array 0-9 --group ${name}`);
}
