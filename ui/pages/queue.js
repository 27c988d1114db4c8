// @ts-check
// The queues: how many jobs are in which state, what waits for whom, pausing all or one of them, and letting go of jobs that have ended.

import { Problem, get, mayAct, post, segment } from '../lib/api.js';
import { count, duration } from '../lib/format.js';
import { readDuration } from '../lib/notation.js';
import { href } from '../lib/router.js';
import { resource } from '../lib/scope.js';
import { signal } from '../lib/signals.js';
import { html } from '../lib/view.js';
import { action, attempt, confirm, dialog, loading, problemNote } from '../lib/widgets.js';
import { queueTable, unserved } from './queue/queues.js';

const STATES = ['waiting', 'prioritized', 'delayed', 'active', 'completed', 'failed'];
/** Jobs that one request lets go of. */
const BATCH = 1000;

/** @type {import('../lib/router.js').Page} */
export default function queue({ scope, query, title }) {
    title('Queue');
    const now = resource(scope, () => ['/queue'], { every: 2000 });
    const each = resource(scope, () => ['/queues'], { every: 2000 });
    const state = () => (query.get('state') === 'failed' ? 'failed' : 'completed');
    const age = () => query.get('older') || '24h';

    const pause = async () => {
        const yes = await confirm(
            'Pause the queue?',
            'No job starts until the queue goes on: not on any worker, and not when a schedule or a delay is due. ' +
                'Running jobs go on to their end.',
            'Pause',
        );
        if (!yes) return;
        await attempt(() => post('/queue:pause'), 'Paused');
        now.reload();
    };
    const resume = async () => {
        await attempt(() => post('/queue:resume'), 'The queue goes on');
        now.reload();
    };
    /** @param {any} one */
    const turn = async (one) => {
        const [verb, done] = one.paused ? ['resume', `${one.name} goes on`] : ['pause', `${one.name} is paused`];
        await attempt(() => post(`/queues/${segment(one.name)}:${verb}`), done);
        each.reload();
        now.reload();
    };
    const clean = async () => {
        const older = readDuration(age());
        if (older === null) return;
        await cleanUp(state(), older, now.data.peek()?.[state()] ?? 0, scope.signal);
        now.reload();
    };

    return () => html`
        <div class="row between">
            <h1>Queue</h1>
            ${() => (now.data.value ? (now.data.value.paused ? action('Resume', resume, { kind: 'primary' })
                : action('Pause …', pause)) : null)}
        </div>
        ${() => problemNote(now.error.value, now.data.value !== null)}
        ${() => (now.data.value?.paused ? html`<div
            class="note warn"><strong>The queue is paused.</strong> Jobs are accepted and wait.
            Running jobs go on to their end.</div>` : null)}
        ${() => unserved(each.data.value?.items ?? [])}
        ${() =>
            now.data.value
                ? html`<div class="tiles">${STATES.map(
                      (state) => html`
            <a class="tile" href=${href('/jobs', { state })}>
                <span class="${state} small">${state}</span><span
                    class="big">${count(now.data.value[state])}</span></a>`,
                  )}</div>`
                : now.error.value
                  ? null
                  : loading}
        ${() => queueTable(query, each.data.value?.items ?? [], turn)}
        <p class="muted small">These are the jobs that the queue holds. History also knows those that
            the queue has let go of, so the list of jobs may show more.</p>
        <div class="grid2">
            <section class="panel" aria-labelledby="pausing">
                <h2 id="pausing">What a pause does</h2>
                <ul class="bullets">
                    <li>No worker takes another job. Those that run go on, and end as usual.</li>
                    <li>Jobs are still accepted. They wait, also those whose delay ends or whose schedule is due.</li>
                    <li>A retry waits too, so an attempt that fails now is repeated after the pause.</li>
                    <li>The pause is kept in the queue: it outlives a restart of server and workers.</li>
                </ul>
                <p class="muted">To stop a single machine, <a href=${href('/workers')}>drain its worker</a>.</p>
            </section>
            <section class="panel" aria-labelledby="cleaning">
                <h2 id="cleaning">Clean up</h2>
                <p>The queue lets go of jobs that have ended, which frees its memory. History and statistics
                    keep them, but they can't be retried any more.</p>
                ${() => html`<div class="fields">
                    <label>State <select @change=${(/** @type {any} */ e) => query.set({ state: e.target.value })}>
                        <option value="completed" .selected=${state() === 'completed'}>completed</option>
                        <option value="failed" .selected=${state() === 'failed'}>failed</option></select></label>
                    <label>Ended longer ago than <input .value=${age()} aria-invalid=${readDuration(age()) === null
                        ? 'true' : null} autocomplete="off"
                        @change=${(/** @type {any} */ e) => query.set({ older: e.target.value.trim() })}>
                        ${readDuration(age()) === null ? html`<span
                            class="field-error">Write a duration, such as 90s, 12h or 7d; 0s means all.</span>`
                                : html`<span class="hint">90s, 12h, 7d; 0s means all</span>`}</label>
                </div>
                <div class="row">${action('Clean up …', clean, { disabled: readDuration(age()) === null
                    || !now.data.value })}
                    ${mayAct() ? null : html`<span class="muted">You are signed in to look only.</span>`}</div>`}
            </section>
        </div>`;
}

/**
 * How many jobs would go, the question, and the work in batches.
 * @param {string} state
 * @param {number} older in ms
 * @param {number} held how many of the state the queue holds
 * @param {AbortSignal} ended
 */
async function cleanUp(state, older, held, ended) {
    const phase = signal(/** @type {'ask' | 'run' | 'end'} */ ('ask'));
    const removed = signal(0);
    const problem = signal(/** @type {Problem | null} */ (null));
    /**
     * At most so many: a job that ended before a moment was submitted before it.
     * @type {import('../lib/signals.js').Signal<string | null>}
     */
    const most = signal(older === 0 ? count(held) : null);
    let isStopped = false;
    if (older > 0) {
        get('/jobs:count', { state, until: new Date(Date.now() - older).toISOString() }, ended).then(
            (answer) => {
                most.value = answer.capped ? count(held) : count(Math.min(held, answer.count));
            },
            () => {
                most.value = count(held);
            },
        );
    }
    const run = async () => {
        phase.value = 'run';
        problem.value = null;
        isStopped = false;
        try {
            for (let last = BATCH; last === BATCH && !isStopped;) {
                last = (await post('/queue:clean', { state, older_than_ms: older, limit: BATCH })).removed;
                removed.value += last;
            }
            phase.value = 'end';
        } catch (error) {
            if (!(error instanceof Problem)) throw error;
            problem.value = error;
        }
    };
    const stop = () => {
        isStopped = true;
    };
    const focus = (/** @type {HTMLElement | null} */ button) => {
        if (button) queueMicrotask(() => button.focus());
    };
    await dialog(
        `Clean up ${state} jobs`,
        (close) => () => html`
        <div class="stack" aria-live="polite">
            ${() => problemNote(problem.value)}
            ${() =>
                phase.value !== 'ask'
                    ? html`<p><strong>${count(removed.value)}</strong> ${removed.value === 1 ? 'job'
                        : 'jobs'} left the queue${phase.value === 'run' ? ' so far' : ''}.</p>
                    ${phase.value === 'run' && !problem.value ? html`<progress aria-label="Progress"></progress>`
                        : null}`
                    : html`<p>The queue holds ${count(held)} ${state} ${held === 1 ? 'job' : 'jobs'}. ${
                          most.value === null
                              ? 'Counting those that are old enough …'
                              : older === 0
                                ? 'All of them would leave it.'
                                : html`At most <strong>${most.value}</strong> of them would
                                      leave it: they ended longer ago than ${duration(older)}.`
                      }</p>
                    <p class="muted">History keeps them. This cannot be undone.</p>`}
        </div>
        <div class="row end">${() => {
            if (phase.value === 'ask')
                return html`<button ref=${focus} @click=${() => close(null)}>Leave them</button>
                <button class="danger" disabled=${most.value === null || most.value === '0'}
                    @click=${run}>Clean up</button>`;
            if (phase.value === 'run' && !problem.value)
                return html`<button ref=${focus} @click=${stop}>Stop after this batch</button>`;
            return html`${problem.value ? html`<button @click=${run}>Go on</button>` : null}<button class="primary"
                ref=${focus} @click=${() => close(null)}>Close</button>`;
        }}</div>`,
    );
    stop();
}
