// @ts-check
// One action on many jobs: first what it would do, then the question, then batch by batch what it does.

import { Problem, post } from './api.js';
import { count } from './format.js';
import { jobs } from './rates.js';
import { signal } from './signals.js';
import { html } from './view.js';
import { dialog, jobLink, problemNote } from './widgets.js';

/** Jobs of one request that acts: few, so that progress is seen. */
const BATCH = 500;
/** Jobs of one request that only looks. */
const PREVIEW_BATCH = 2000;
/** The preview looks at no more jobs than this. */
const MOST_PREVIEWED = 100_000;

/** How many of the chosen jobs the question shows. */
const SHOWN = 5;

/** @typedef {'retry' | 'cancel' | 'promote' | 'remove'} Verb */
/** @typedef {Record<string, any>} Selection `ids`, or a filter; what is empty is no condition */
/**
 * What is done: the verb for people, what has happened, what it means.
 * @type {Record<Verb, { yes: string, done: string, means: string }>}
 */
export const VERBS = {
    retry: {
        yes: 'Retry',
        done: 'put back into the queue',
        means: 'Failed jobs go back into the queue, with all their attempts anew.',
    },
    cancel: {
        yes: 'Cancel',
        done: 'cancelled',
        means: 'Jobs that wait will not run. Those that run get SIGTERM, and SIGKILL when their grace is over.',
    },
    promote: { yes: 'Promote', done: 'made ready', means: 'Delayed jobs become ready now.' },
    remove: {
        yes: 'Remove',
        done: 'removed',
        means: 'Jobs that do not run leave the queue and all lists. This cannot be undone.',
    },
};

/** What came of the batches so far. */
class Tally {
    done = 0;
    skipped = 0;
    /** The first of those that were done. @type {string[]} */
    samples = [];
    /** By reason: how many, and some of them. @type {Map<string, { n: number, ids: string[] }>} */
    reasons = new Map();

    /** @param {any} answer */
    add(answer) {
        const done = answer.done ?? answer.retried ?? [];
        this.done += done.length;
        this.samples = [...this.samples, ...done].slice(0, SHOWN);
        for (const [id, why] of Object.entries(answer.skipped ?? {})) {
            this.skipped++;
            // Reasons that differ only in the job's own id are one.
            const reason = String(why)
                .replaceAll(`no job ${id}`, 'no such job')
                .replaceAll(`job ${id}`, 'it')
                .replaceAll(id, 'it');
            const group = this.reasons.get(reason) ?? { n: 0, ids: [] };
            group.n++;
            if (group.ids.length < 3) group.ids.push(id);
            this.reasons.set(reason, group);
        }
    }

    get looked() {
        return this.done + this.skipped;
    }
}

/** @param {Tally} tally */
function reasons(tally) {
    if (!tally.skipped) return null;
    const groups = [...tally.reasons].sort(([, a], [, b]) => b.n - a.n);
    return html`<div class="stack"><h3>${count(tally.skipped)} skipped</h3><ul class="list">${groups.slice(0, 8).map(
        ([reason, { n, ids }]) => html`
        <li><strong>${count(n)}</strong>: ${reason}
            <div class="small muted">${n > ids.length ? 'such as ' : ''}${ids.map((id, i) => html`${i ? ', '
                : ''}${jobLink(id)}`)}</div></li>`,
    )}
        ${groups.length > 8 ? html`<li class="muted">and ${count(groups.length - 8)} other reasons</li>`
            : null}</ul></div>`;
}

/**
 * Asks and acts. Gives how many jobs were acted on; null when nothing was done.
 * @param {Verb} verb
 * @param {Selection} selection
 * @param {string} which the jobs, in words
 * @returns {Promise<number | null>}
 */
export async function actOnMany(verb, selection, which) {
    const chosen = Object.fromEntries(Object.entries(selection).filter(([, value]) => value !== ''));
    const { yes, done, means } = VERBS[verb];
    const phase = signal(/** @type {'preview' | 'ask' | 'run' | 'end'} */ ('preview'));
    /** Changes with each batch. */
    const turn = signal(0);
    const problem = signal(/** @type {Problem | null} */ (null));
    const reason = signal('');
    const preview = new Tally();
    const result = new Tally();
    let isMore = false;
    let isStopped = false;
    /** @type {string | null} */
    let cursor = null;

    /** Goes through the jobs from `cursor` on. @param {Tally} tally @param {boolean} isDry */
    const go = async (tally, isDry) => {
        problem.value = null;
        isStopped = false;
        do {
            const body = {
                ...chosen,
                limit: isDry ? PREVIEW_BATCH : BATCH,
                dry_run: isDry,
                ...(cursor ? { cursor } : {}),
                ...(verb === 'cancel' && !isDry && reason.peek() ? { reason: reason.peek() } : {}),
            };
            try {
                const answer = await post(`/jobs:${verb}`, body);
                tally.add(answer);
                cursor = answer.next_cursor ?? null;
            } catch (error) {
                if (!(error instanceof Problem)) throw error;
                problem.value = error;
                return false;
            }
            turn.value++;
            if (isDry && tally.looked >= MOST_PREVIEWED && cursor) isMore = true;
        } while (cursor && !isStopped && !(isDry && isMore));
        return true;
    };
    const look = async () => {
        phase.value = 'preview';
        if (!(await go(preview, true))) return;
        isMore ||= cursor !== null;
        cursor = null;
        phase.value = 'ask';
    };
    const run = async () => {
        phase.value = 'run';
        if (await go(result, false)) phase.value = 'end';
    };
    const stop = () => {
        isStopped = true;
    };
    const more = () => (isMore ? 'more than ' : '');

    look();
    await dialog(
        `${yes} ${which}`,
        (close) => () => html`
        <div class="stack" aria-live="polite">
            <p class="muted">${means}</p>
            ${() => problemNote(problem.value)}
            ${() => {
                turn.value;
                if (phase.value === 'preview')
                    return html`<p>Looking what it would do: ${count(preview.looked)} jobs so far.</p>
                    <progress aria-label="Preview" max=${MOST_PREVIEWED} value=${preview.looked}></progress>`;
                if (phase.value === 'ask')
                    return html`<p><strong>${more()}${jobs(preview.done)}</strong> would be ${done}.
                    ${preview.looked ? null : 'No job was found.'} ${isMore
                        ? `The preview ended after ${count(preview.looked)} jobs; the action goes on to the last.`
                            : null}</p>
                    ${preview.done ? html`<p class="row small">${preview.samples.map((id) => jobLink(id))}${
                        preview.done > SHOWN ? '…' : null}</p>` : null}
                    ${reasons(preview)}`;
                const total = preview.looked;
                return html`<p><strong>${jobs(result.done)}</strong> ${result.done === 1 ? 'was' : 'were'} ${done}${phase.value === 'run'
                        ? `, ${count(result.looked)} of ${more()}${count(total)} looked at` : cursor
                            ? '. The rest was left: you stopped it' : ''}.</p>
                    ${phase.value === 'run' ? html`<progress aria-label="Progress" max=${isMore ? null : total}
                        value=${isMore ? null : Math.min(result.looked, total)}></progress>` : null}
                    ${reasons(result)}`;
            }}
        </div>
        ${() =>
            phase.value === 'ask' && verb === 'cancel' && preview.done
                ? html`<label>Reason, for history (may be empty)
            <input maxlength="500" .value=${reason.value} @input=${(/** @type {any} */ e) => {
                reason.value = e.target.value;
            }}></label>`
                : null}
        <div class="row end">${() => buttons(close)}</div>`,
    );
    stop();
    return result.looked ? result.done : null;

    /** @param {(value: null) => void} close */
    function buttons(close) {
        const retry = problem.value && (phase.value === 'preview' || phase.value === 'run');
        const again = phase.value === 'preview' ? look : run;
        switch (phase.value) {
            case 'preview':
            case 'run':
                return html`${retry ? html`<button class="primary" @click=${again}>Go on</button>` : null}
                    ${phase.value === 'run' && !retry ? html`<button @click=${stop}>Stop after this batch</button>`
                        : html`<button @click=${() => close(null)}>Close</button>`}`;
            case 'ask':
                return html`<button @click=${() => close(null)}>${preview.done ? 'Leave them' : 'Close'}</button>
                    ${preview.done ? html`<button class=${verb === 'remove' || verb === 'cancel' ? 'danger'
                        : 'primary'} ref=${focus}
                            @click=${run}>${yes} ${more()}${jobs(preview.done)}</button>` : null}`;
            default:
                return html`${cursor ? html`<button @click=${run}>Go on</button>` : null}<button class="primary"
                    ref=${focus} @click=${() => close(null)}>Close</button>`;
        }
    }
}

/** The button that follows gets the focus of the one that has gone. @param {HTMLElement | null} button */
function focus(button) {
    if (button) queueMicrotask(() => button.focus());
}
