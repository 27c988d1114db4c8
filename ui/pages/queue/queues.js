// @ts-check
// What each queue has before it, how much of it may run, and who serves it.

import { count, duration } from '../../lib/format.js';
import { href } from '../../lib/router.js';
import { jobs } from '../../lib/rates.js';
import { sortTable } from '../../lib/table.js';
import { html } from '../../lib/view.js';
import { action } from '../../lib/widgets.js';

/**
 * As `GET /queues` tells.
 * @typedef {{ jobs: number, core_seconds: number | null, unknown_jobs: number | null,
 *   unplaceable_jobs?: number | null, sampled: number }} Backlog
 * @typedef {{ concurrency?: number, rate?: { jobs: number, per_ms: number }, fair?: string }} Limit
 * @typedef {{ name: string, is_default: boolean, paused: boolean, workers: number, limit?: Limit, backlog?: Backlog,
 *   waiting: number, prioritized: number, delayed: number, active: number, completed: number, failed: number }} Queue
 */

const STATES = /** @type {const} */ (['waiting', 'prioritized', 'delayed', 'active', 'completed', 'failed']);
const UNITS = /** @type {[number, string][]} */ ([[86400, 'd'], [3600, 'h'], [60, 'm'], [1, 's']]);

/** Jobs that a worker could take now. @param {Queue} queue */
const ready = (queue) => queue.waiting + queue.prioritized;

/** An estimate has one unit: what it says beyond that is not known. @param {number} seconds */
function roughly(seconds) {
    if (seconds < 1) return 'less than 1 s';
    // From two on: 90 minutes are more than one hour and less than two.
    const [size, unit] = UNITS.find(([size]) => seconds >= 2 * size) ?? [1, 's'];
    return `about ${count(Math.round(seconds / size))} ${unit}`;
}

/** How much work waits, in words. @param {Backlog | undefined} backlog */
function work(backlog) {
    if (!backlog) return html`<span class="muted">This server does not tell.</span>`;
    const { jobs: all, core_seconds: seconds, unknown_jobs: unknown, sampled } = backlog;
    if (!all) return html`<span class="muted">none</span>`;
    if (seconds === null || unknown === null)
        return html`<span class="muted">History can't be read now, so it is not known how long they take.</span>`;
    if (unknown >= all) return html`<span class="muted">It is not known yet how long they take.</span>`;
    const asides = [
        unknown ? `without ${jobs(unknown)} that nothing is known of` : '',
        sampled < all ? `by the first ${count(sampled)}` : '',
    ].filter(Boolean);
    return html`${roughly(seconds)} of one core${asides.length
        ? html`<span class="muted small">, ${asides.join(', ')}</span>` : null}`;
}

/** @param {Limit | undefined} limit */
function limits({ concurrency, rate, fair } = {}) {
    const all = [
        concurrency ? `${count(concurrency)} at once` : '',
        rate ? `${count(rate.jobs)} start in ${duration(rate.per_ms)}` : '',
        fair === 'group' ? 'in turn among groups' : (fair ?? ''),
    ].filter(Boolean);
    if (!all.length) return html`<span class="muted">none</span>`;
    return all.map((part, i) => html`<span class="nowrap">${part}${i < all.length - 1 ? ',' : ''}</span> `);
}

/** @param {Queue} queue */
function workers(queue) {
    return queue.workers === 0 && ready(queue) > 0 ? html`<strong>none</strong>` : count(queue.workers);
}

/** Where jobs wait for workers that are not there, or that could not run them. @param {Queue[]} queues */
export function unserved(queues) {
    const unplaceable = queues.filter((queue) => queue.backlog?.unplaceable_jobs);
    return [noWorker(queues), unplaceable.map((queue) => html`<div class="note warn"><strong>No worker that serves ${
        queue.name} can run ${jobs(queue.backlog?.unplaceable_jobs ?? 0)} of it.</strong> A job's own page says what each worker
        lacks.</div>`)];
}

/** @param {Queue[]} queues */
function noWorker(queues) {
    return queues.filter((queue) => queue.workers === 0 && ready(queue) > 0).map((queue) => {
        const flag = queue.is_default && queues.length === 1 ? '' : ` --queue ${queue.name}`;
        return html`<div class="note warn"><strong>No worker takes jobs of ${queue.name}.</strong> ${jobs(
            ready(queue))} ${ready(queue) === 1 ? 'waits' : 'wait'}. Start one: <code>jobber work${flag}</code></div>`;
    });
}

/**
 * One line for each queue; of a single one, whose states stand above it, the rest.
 * @param {import('../../lib/router.js').Query} query
 * @param {Queue[]} queues
 * @param {(queue: Queue) => Promise<void>} turn pauses it, or lets it go on
 */
export function queueTable(query, queues, turn) {
    if (!queues.length) return null;
    if (queues.length === 1) {
        const [one] = queues;
        return html`<dl class="facts">
            <dt>Work that waits</dt><dd>${work(one.backlog)}</dd>
            <dt>Limit</dt><dd>${limits(one.limit)}</dd>
            <dt>Workers</dt><dd>${workers(one)}</dd>
        </dl>`;
    }
    const columns = [
        {
            key: 'name',
            name: 'queue',
            cell: (/** @type {Queue} */ one) => html`<a class="nowrap"
                href=${href('/jobs', { queue: one.name })}>${one.name}</a> ${one.is_default
                    ? html`<span class="muted small">default</span> ` : null}${one.paused
                        ? html`<span class="chip">paused</span>` : null}`,
            value: (/** @type {Queue} */ one) => one.name,
        },
        ...STATES.map((state) => ({
            key: state,
            name: state,
            number: true,
            cell: (/** @type {Queue} */ one) => count(one[state]),
            value: (/** @type {Queue} */ one) => one[state],
        })),
        {
            key: 'work',
            name: 'work that waits',
            wide: true,
            title: 'What ready jobs will take, by how long others of their names took on the last 7 days',
            cell: (/** @type {Queue} */ one) => work(one.backlog),
            value: (/** @type {Queue} */ one) => one.backlog?.core_seconds ?? null,
        },
        { key: 'limit', name: 'limit', cell: (/** @type {Queue} */ one) => limits(one.limit) },
        {
            key: 'workers',
            name: 'workers',
            number: true,
            title: 'Those that serve it and take jobs now',
            cell: workers,
            value: (/** @type {Queue} */ one) => one.workers,
        },
        {
            key: 'act',
            name: '',
            // With its name, so that the buttons of a list can be told apart by ear.
            cell: (/** @type {Queue} */ one) => action(`${one.paused ? 'Resume' : 'Pause'} ${one.name}`,
                () => turn(one), { kind: 'small' }),
        },
    ];
    return html`<section class="panel" aria-labelledby="queues">
        <h2 id="queues">Queues</h2>
        ${sortTable(query, { label: 'Queues', columns, rows: queues, key: (one) => one.name, usual: 'name' })}
        <p class="muted small">Work is counted for one core: two cores need half of the time.</p>
    </section>`;
}
