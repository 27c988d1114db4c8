// @ts-check
// Puts all failed jobs of a selection back: first says which, then does it page by page and tells how far it is.

import { post } from './api.js';
import { count } from './format.js';
import { jobs } from './rates.js';
import { signal } from './signals.js';
import { html } from './view.js';
import { dialog, jobLink, problemNote } from './widgets.js';

/** @typedef {{ category?: string, fingerprint?: string, name?: string, since?: string, until?: string }} Selection */
/** @typedef {{ retried: number, skipped: number, reasons: Map<string, number>, samples: string[] }} Tally */

/** So many jobs go into one request, so that the bar moves and "Stop" stops soon. */
const PAGE = 500;

/** Keeps the focus in the dialog when its buttons change. @param {HTMLElement | null} button */
const focus = (button) => queueMicrotask(() => button?.focus());

/**
 * Asks and acts; resolves to how many jobs were put back.
 * @param {Selection} selection @param {string} what
 * @returns {Promise<number>}
 */
export async function retryJobs(selection, what) {
    const filter = Object.fromEntries(Object.entries(selection).filter(([, value]) => value));
    const phase = signal(/** @type {'preview' | 'ask' | 'run' | 'done'} */ ('preview'));
    const preview = signal(/** @type {Tally} */ (nothing()));
    const done = signal(/** @type {Tally} */ (nothing()));
    const problem = signal(/** @type {any} */ (null));
    let isClosed = false;
    let isStopped = false;

    /** @param {boolean} dry @param {import('./signals.js').Signal<Tally>} tally */
    const all = async (dry, tally) => {
        /** @type {string | null} */
        let cursor = null;
        do {
            const body = { ...filter, limit: PAGE, dry_run: dry, ...(cursor ? { cursor } : {}) };
            const page = await post('/jobs:retry', body);
            tally.value = add(tally.peek(), page);
            cursor = page.next_cursor ?? null;
        } while (cursor && !isClosed && !isStopped);
    };
    const run = async () => {
        phase.value = 'run';
        try {
            await all(false, done);
        } catch (error) {
            problem.value = error;
        }
        phase.value = 'done';
    };
    const closed = dialog(`Retry ${what}`, (close) => {
        all(true, preview).then(
            () => {
                phase.value = 'ask';
            },
            (error) => {
                problem.value = error;
                phase.value = 'done';
            },
        );
        return () => html`
            ${phase.value === 'preview' ? html`<p aria-live="polite">Looking for failed
            jobs: ${jobs(preview.value.retried)} so far …</p>` : null}
            ${phase.value === 'ask' ? question(preview.value) : null}
            ${phase.value === 'run' ? progress(done.value, preview.value) : null}
            ${phase.value === 'done' && !problem.value ? result(done.value, isStopped) : null}
            ${problemNote(problem.value)}
            <div class="row end">
                ${phase.value === 'run' ? html`<button ref=${focus} @click=${() => {
                    isStopped = true;
                }}>Stop</button>` : html`<button ref=${focus}
                    @click=${() => close(null)}>${phase.value === 'done' ? 'Close' : 'Cancel'}</button>`}
                ${phase.value === 'ask' && preview.value.retried ? html`
                    <button class="primary" ref=${focus} @click=${run}>Retry ${jobs(preview.value.retried)}</button>`
                        : null}
            </div>`;
    });
    await closed;
    isClosed = true;
    return done.peek().retried;
}

/** @returns {Tally} */
function nothing() {
    return { retried: 0, skipped: 0, reasons: new Map(), samples: [] };
}

/** @param {Tally} tally @param {any} page @returns {Tally} */
function add(tally, page) {
    const reasons = new Map(tally.reasons);
    const skipped = /** @type {string[]} */ (Object.values(page.skipped ?? {}));
    for (const why of skipped) reasons.set(why, (reasons.get(why) ?? 0) + 1);
    return {
        retried: tally.retried + page.retried.length,
        skipped: tally.skipped + skipped.length,
        reasons,
        samples: tally.samples.length ? tally.samples : page.retried.slice(0, 5),
    };
}

/** @param {Tally} tally */
function question(tally) {
    if (!tally.retried) return html`<p>No failed job can be put back now: those that met this error have completed, run
        again, or are no longer kept.</p>${reasons(tally)}`;
    return html`<p>${jobs(tally.retried)} that failed will be put back into the queue, with all attempts anew.</p>
        <p class="row small">${tally.samples.map((id) => jobLink(id))}${tally.retried > tally.samples.length ? '…'
            : null}</p>
        ${reasons(tally)}`;
}

/** @param {Tally} tally */
function reasons({ skipped, reasons }) {
    if (!skipped) return null;
    return html`<p>${jobs(skipped)} will not be:</p>
        <ul>${[...reasons].slice(0, 5).map(([why, n]) => html`<li>${count(n)}: ${why}</li>`)}</ul>`;
}

/** @param {Tally} tally @param {Tally} all */
function progress(tally, all) {
    const so = tally.retried + tally.skipped;
    return html`<label>${count(so)} of ${jobs(all.retried + all.skipped)}
        <progress max=${Math.max(1, all.retried + all.skipped)} value=${so}></progress></label>`;
}

/** @param {Tally} tally @param {boolean} isStopped */
function result(tally, isStopped) {
    return html`<p role="status"><strong>${isStopped ? 'Stopped: ' : ''}${jobs(tally.retried)} put back.</strong></p>
        ${tally.skipped ? html`<p>${jobs(tally.skipped)} skipped:</p>
            <ul>${[...tally.reasons].slice(0, 5).map(([why, n]) => html`<li>${count(n)}: ${why}</li>`)}</ul>` : null}`;
}
