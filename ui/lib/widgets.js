// @ts-check
// What several pages show: states, times, errors, dialogs.

import { mayAct } from './api.js';
import { clock, moment, relative, shortId } from './format.js';
import { zone } from './prefs.js';
import { href } from './router.js';
import { signal } from './signals.js';
import { each, html, mount } from './view.js';

/** Each state has a word, a colour and a shape of its own. */
const SHAPES = /** @type {Record<string, string>} */ ({
    waiting: '○', prioritized: '△', delayed: '◔', active: '▶', completed: '✓', failed: '✕', cancelled: '⊘',
});

/** @param {string} state @param {any} [outcome] a job that was cancelled has failed, and is shown as cancelled */
export function stateMark(state, outcome) {
    const shown = state === 'failed' && outcome?.kind === 'cancelled' ? 'cancelled' : state;
    return html`<span class="state ${shown}"><span aria-hidden="true">${SHAPES[shown] ?? '•'}</span> ${shown}</span>`;
}

/** A moment as the time from now, which ticks; the whole in its title. @param {string | null | undefined} at */
export function when(at) {
    if (!at) return html`<span class="muted">–</span>`;
    return html`<time datetime=${at} title=${moment(at)} data-relative="">${relative(at)}</time>`;
}

/** A moment in the zone of the user. @param {string | null | undefined} at */
export function at(at) {
    if (!at) return html`<span class="muted">–</span>`;
    return html`<time datetime=${at} title=${relative(at)}>${moment(at)}</time>`;
}

/** The time of a day. @param {string} at */
export function timeOfDay(at) {
    return html`<time datetime=${at} title=${moment(at)}>${clock(at)}</time>`;
}

// All relative times of the page tick together; text that stays is not touched.
setInterval(() => {
    if (document.hidden) return;
    const now = Date.now();
    for (const element of document.querySelectorAll('time[data-relative]')) {
        const text = relative(/** @type {HTMLTimeElement} */ (element).dateTime, now);
        const node = [...element.childNodes].find((child) => child instanceof Text);
        if (node instanceof Text && node.data !== text) node.data = text;
    }
}, 1000);

/** @param {string} id @param {string} [tab] */
export function jobLink(id, tab) {
    return html`<a class="id" href=${href(`/jobs/${encodeURIComponent(id)}`, tab ? { tab } : {})} title=${id}>${shortId(id)}</a>`;
}

/** What is wrong, and whether what is shown is old. @param {any} problem @param {boolean} [isOld] */
export function problemNote(problem, isOld = false) {
    if (!problem) return null;
    return html`<div class="note bad" role="alert">
        <strong>${isOld ? 'What is shown is old. ' : ''}${problem.message}</strong>
        ${problem.errors?.length ? html`<ul>${problem.errors.map((/** @type {any} */ e) => html`<li><code>${e.pointer}</code> ${e.detail}</li>`)}</ul>` : null}
    </div>`;
}

/** Nothing is there: says why, and what to do. @param {string} title @param {unknown} [text] @param {string} [command] */
export function empty(title, text, command) {
    return html`<div class="empty"><h2>${title}</h2>${text ? html`<p>${text}</p>` : null}${command ? copyable(command) : null}</div>`;
}

export const loading = html`<p class="muted loading" aria-live="polite">Loading …</p>`;

/** A command with a button that copies it. @param {string} text */
export function copyable(text) {
    return html`<div class="copyable"><code>${text}</code><button class="small" @click=${() => copy(text)}>Copy</button></div>`;
}

/** @param {string} text */
export async function copy(text) {
    try {
        await navigator.clipboard.writeText(text);
        toast('Copied');
    } catch {
        // Plain HTTP from another machine has no clipboard.
        toast('This browser lets only HTTPS pages copy', true);
    }
}

/** A value of JSON, indented. @param {unknown} value */
export function json(value) {
    return html`<pre class="code" tabindex="0">${JSON.stringify(value, null, 2)}</pre>`;
}

/** A button that only who may act sees. @param {string} label @param {() => unknown} run @param {{ kind?: string, disabled?: boolean, title?: string }} [options] */
export function action(label, run, { kind = '', disabled = false, title } = {}) {
    if (!mayAct()) return null;
    return html`<button class=${kind} disabled=${disabled} title=${title ?? null}
        @click=${async () => {
        await run();
        keepFocus();
    }}>${label}</button>`;
}

/** After an action: if its button is gone, the focus goes to the heading instead of being lost. */
function keepFocus() {
    // The page is shown anew in the next frame.
    requestAnimationFrame(() => requestAnimationFrame(() => {
        if (document.activeElement !== document.body) return;
        const heading = /** @type {HTMLElement | null} */ (document.querySelector('main h1'));
        heading?.setAttribute('tabindex', '-1');
        heading?.focus({ preventScroll: true });
    }));
}

// ---- Short messages

/** @type {import('./signals.js').Signal<{ id: number, text: string, bad: boolean }[]>} */
const toasts = signal(/** @type {any[]} */ ([]));
let toastId = 0;

/** Says something for some seconds. @param {string} text @param {boolean} [bad] */
export function toast(text, bad = false) {
    const id = ++toastId;
    toasts.value = [...toasts.peek().slice(-3), { id, text, bad }];
    setTimeout(() => {
        toasts.value = toasts.peek().filter((t) => t.id !== id);
    }, bad ? 10_000 : 4000);
}

/** @param {Element} element */
export function showToasts(element) {
    mount(element, () => each(toasts.value, (t) => t.id, (t) => html`<div class="toast ${t.bad ? 'bad' : ''}">${t.text}</div>`));
}

/** Runs an action, and says what came of it. @param {() => Promise<unknown>} run @param {string} done */
export async function attempt(run, done) {
    try {
        const answer = await run();
        toast(done);
        return answer ?? true;
    } catch (problem) {
        toast(/** @type {Error} */ (problem).message, true);
        return null;
    }
}

// ---- Dialogs

/**
 * Opens a dialog, and gives what it was closed with: null after Escape or "Cancel".
 * @template T
 * @param {string} title
 * @param {(close: (value: T | null) => void) => () => unknown} body gets how to close it, and gives a view
 * @returns {Promise<T | null>}
 */
export function dialog(title, body) {
    return new Promise((resolve) => {
        const before = document.activeElement;
        const element = document.createElement('dialog');
        element.setAttribute('aria-labelledby', 'dialog-title');
        document.body.append(element);
        /** @type {T | null} */
        let answer = null;
        const close = (/** @type {T | null} */ value) => {
            answer = value;
            element.close();
        };
        const view = body(close);
        const end = mount(element, () => html`<h2 id="dialog-title">${title}</h2>${view()}`);
        element.addEventListener('close', () => {
            end();
            element.remove();
            if (before instanceof HTMLElement && before.isConnected) before.focus();
            resolve(answer);
        });
        element.showModal();
    });
}

/** Asks before something that can't be undone. @param {string} title @param {unknown} text @param {string} yes @returns {Promise<boolean>} */
export async function confirm(title, text, yes) {
    const answer = await dialog(title, (close) => () => html`
        <p>${text}</p>
        <div class="row end">
            <button @click=${() => close(null)}>Cancel</button>
            <button class="danger" @click=${() => close(true)}>${yes}</button>
        </div>`);
    return answer === true;
}

/** The zone in which the page shows times. */
export const zoneName = () => (zone.value === 'utc' ? 'UTC' : Intl.DateTimeFormat().resolvedOptions().timeZone);
