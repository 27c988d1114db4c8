// @ts-check
// One job: how it stands and why, its attempts, its log, what it was given and gave back.

import { get, mayAct, segment } from '../lib/api.js';
import { plain } from '../lib/ansi.js';
import { at as atTime, copyable, empty, jobLink, loading, problemNote, stateMark, when } from '../lib/widgets.js';
import { duration } from '../lib/format.js';
import { bind } from '../lib/keys.js';
import { logView } from '../lib/logview.js';
import { go, href } from '../lib/router.js';
import { Scope, resource } from '../lib/scope.js';
import { signal, untracked } from '../lib/signals.js';
import { html } from '../lib/view.js';
import { attemptsView } from './job/attempts.js';
import { actions } from './job/actions.js';
import { dataView, rulesView } from './job/details.js';

/** Name, title and key of each tab. */
const TABS = [
    ['attempts', 'Attempts', '1'],
    ['log', 'Log', '2'],
    ['data', 'Input and result', '3'],
    ['rules', 'Rules and relations', '4'],
];
const ENDED = ['completed', 'failed'];
/** While a job has not ended it is asked for this often, in ms; afterwards it may still be put back. */
const OFTEN = 1000;
const RARELY = 10_000;

/** @type {import('../lib/router.js').Page} */
export default function job({ scope, params, query, title }) {
    const { id } = params;
    title(id);
    const path = `/jobs/${segment(id)}`;
    const job = resource(scope, () => [path]);
    const reasons = signal(/** @type {string[]} */ ([]));
    // What follows from the job, as signals of their own: who reads them is not told of every answer.
    const state = signal('');
    const hasEnded = signal(false);
    const numbers = signal('');
    scope.effect(() => {
        const known = job.data.value;
        if (!known) return;
        title(`${known.name} ${id}`);
        state.value = known.state;
        hasEnded.value = ENDED.includes(known.state);
        numbers.value = known.attempts.map((/** @type {any} */ a) => a.number).join();
    });

    const explain = async () => {
        const known = state.peek();
        if (!known || known === 'completed') return void (reasons.value = []);
        try {
            const answer = await get(`${path}/explain`, {}, scope.signal);
            if (JSON.stringify(answer.reasons) !== JSON.stringify(reasons.peek())) reasons.value = answer.reasons;
        } catch {
            // The job itself says what is wrong.
        }
    };
    scope.effect(() => {
        if (state.value) untracked(explain);
    });
    let asked = Date.now();
    scope.every(OFTEN, () => {
        if (job.busy.peek() || (hasEnded.peek() && Date.now() - asked < RARELY)) return;
        asked = Date.now();
        job.reload();
        if (!hasEnded.peek()) explain();
    });

    const tab = () => (TABS.some(([name]) => name === query.get('tab')) ? query.get('tab') : 'attempts');
    const open = (/** @type {string} */ name) => query.set({ tab: name === 'attempts' ? null : name });
    bind(scope, {
        ...Object.fromEntries(
            TABS.map(([name, title, key]) => [key, [`Show ${title.toLowerCase()}`, () => open(name)]]),
        ),
        e: ['Clone and edit', () => mayAct() && go(href('/submit', { clone: id }))],
    });

    const known = {
        id,
        query,
        scope,
        /** @returns {any} */
        get job() {
            return job.data.value;
        },
        reload: job.reload,
    };
    const panel = signal(/** @type {unknown} */ (null));
    // Each tab lives as long as it is shown.
    let life = new Scope();
    scope.onEnd(() => life.end());
    let shown = '';
    scope.effect(() => {
        const wanted = tab();
        if (!state.value || wanted === shown) return;
        shown = wanted;
        untracked(() => {
            life.end();
            life = new Scope();
            panel.value = show(wanted, life);
            // On narrow screens the tabs scroll.
            requestAnimationFrame(() => {
                const tab = document.getElementById(`tab-${wanted}`);
                if (tab?.parentElement)
                    tab.parentElement.scrollLeft = tab.offsetLeft - tab.parentElement.offsetLeft - 48;
            });
        });
    });

    /** @param {string} name @param {Scope} scope */
    function show(name, scope) {
        if (name === 'attempts') return attemptsView(known);
        if (name === 'data') return html`${() => dataView(known.job)}`;
        if (name === 'rules') return html`${() => rulesView(known.job)}`;
        return logView(scope, {
            id,
            query,
            attempts: () => numbers.value.split(',').filter(Boolean).map(Number),
            event: (event) => {
                if (event.type === 'state' && event.state !== state.peek()) job.reload();
            },
            runs: () => !hasEnded.value,
        });
    }

    // The heading stays the same element: who comes to the page has the focus there.
    return () => html`
        <div class="row between">
            <div class="row"><h1>${() => job.data.value?.name ?? 'Job'}</h1>${() =>
                job.data.value && stateMark(job.data.value.state, job.data.value.outcome)}</div>
            <div class="row">${() => job.data.value && actions(job.data.value, id, job.reload)}</div>
        </div>
        ${() => job.data.value && facts(job.data.value, id)}
        ${() => (job.error.value?.status === 404 ? unknown(id) : problemNote(job.error.value, job.data.value !== null))}
        ${() => (state.value || job.error.value ? null : loading)}
        ${() => why(job.data.value, reasons.value)}
        ${() =>
            state.value &&
            html`<div class="tabs" role="tablist" aria-label="About this job">${TABS.map(
                ([name, title]) => html`
            <button role="tab" id="tab-${name}" aria-controls="panel" aria-selected=${String(tab() === name)}
                tabindex=${tab() === name ? '0' : '-1'}
                @click=${() => open(name)} @keydown=${move}>${title}</button>`,
            )}</div>`}
        ${() => state.value && html`<div id="panel" class="stack" role="tabpanel"
            aria-labelledby="tab-${tab()}">${() => panel.value}</div>`}`;

    /** Arrow keys go from tab to tab. @param {KeyboardEvent} event */
    function move(event) {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (!step) return;
        const at = TABS.findIndex(([name]) => name === tab());
        const [next] = TABS[(at + step + TABS.length) % TABS.length];
        open(next);
        document.getElementById(`tab-${next}`)?.focus();
    }
}

/** @param {any} job @param {string} id */
function facts(job, id) {
    const first = job.attempts?.[0]?.started_at;
    const hasEnded = ENDED.includes(job.state);
    const since = (/** @type {string} */ at) => new Date(at).getTime() - new Date(job.submitted_at).getTime();
    return html`
        <div class="row job-facts">
            <span class="row">${copyable(id)}</span>
            <span><span class="muted">submitted</span> ${when(job.submitted_at)}</span>
            ${first ? html`<span><span class="muted">waited</span> ${duration(since(first))}</span>` : null}
            ${job.finished_at ? html`<span><span class="muted">ended</span> ${when(job.finished_at)}</span>` : null}
            ${job.finished_at
                ? html`<span><span class="muted">in all</span> ${duration(since(job.finished_at))}</span>` : null}
            ${job.state === 'delayed' && job.due_at
                ? html`<span><span class="muted">due</span> ${when(job.due_at)} (${atTime(job.due_at)})</span>` : null}
            <span><span class="muted">attempts</span> ${attemptsOf(job)}</span>
            ${job.options?.group ? html`<span><span class="muted">of the group</span> <a
                href=${href(`/groups/${segment(job.options.group)}`)}>${job.options.group}</a></span>` : null}
            ${job.worker ? html`<span><span class="muted">on</span> <a
                href=${href('/workers', { worker: job.worker })}>${job.worker}</a></span>` : null}
        </div>
        ${
            job.cancel_requested !== null && job.cancel_requested !== undefined && !hasEnded
                ? html`<div class="note warn"><strong>Its worker was told to stop
                    it.</strong> ${job.cancel_requested}</div>`
                : null
        }
        ${job.progress && job.state === 'active' ? progress(job.progress) : null}
        ${job.regression ? html`<div class="note warn"><strong>Its build does worse than those before it:</strong>
            ${job.regression.says}. <a href=${href('/stats', { tab: 'builds', name: job.name })}>All its builds</a></div>` : null}
        ${job.incomplete ? html`<div class="note warn"><strong>Something is missing
            here:</strong> ${job.incomplete}</div>` : null}`;
}

/** How many attempts there were, and may be. @param {any} job */
function attemptsOf({ attempts, options, retries }) {
    const count = attempts?.length ?? 0;
    // Who puts a job back gives it all its attempts again.
    if (retries) return `${count}, put back ${retries === 1 ? 'once' : `${retries} times`}`;
    return `${count} of ${options?.attempts ?? '–'}`;
}

/** @param {any} progress */
function progress({ percent, text }) {
    return html`<div class="row job-progress">
        <progress max="100" value=${percent} aria-label="Progress"></progress>
        <span class="number">${percent.toFixed(0)} %</span>${text ? html`<span class="muted">${text}</span>` : null}
    </div>`;
}

/** @type {Record<string, string>} */
const QUESTIONS = {
    waiting: 'Why is it waiting?',
    prioritized: 'Why is it waiting?',
    delayed: 'Why is it delayed?',
    failed: 'Why has it failed?',
    active: 'What is it doing?',
};

/** @param {any} job @param {string[]} reasons */
function why(job, reasons) {
    if (!reasons.length || !QUESTIONS[job?.state]) return null;
    const isCancelled = job.state === 'failed' && job.outcome?.kind === 'cancelled';
    const question = isCancelled ? 'Why was it cancelled?' : QUESTIONS[job.state];
    if (isCancelled && job.error) reasons = [job.error.replace(/^cancelled: /, '')];
    const sentences = reasons.map((reason) => {
        const text = onOneLine(reason);
        const sentence = `${text.charAt(0).toUpperCase()}${text.slice(1)}${/[.!?…]$/.test(text) ? '' : '.'}`;
        const id = job.waits_for?.find((/** @type {string} */ id) => sentence.includes(`job ${id}`));
        if (!id) return sentence;
        const [before, ...behind] = sentence.split(id);
        return html`${before}${jobLink(id)}${behind.join(id)}`;
    });
    return html`<section class="note ${isCancelled ? 'warn' : job.state === 'failed' ? 'bad' : ''}"
        aria-label=${question}>
        <strong>${question}</strong>
        ${sentences.length === 1 ? html`<span> ${sentences[0]}</span>`
            : html`<ul>${sentences.map((text) => html`<li>${text}</li>`)}</ul>`}
    </section>`;
}

/** The most characters of a reason, which may hold all that a program wrote to stderr. */
const REASON = 400;

/** @param {string} text */
function onOneLine(text) {
    const line = text
        .slice(0, 4 * REASON)
        .split('\n')
        .map((part) => plain(part).trim())
        .filter(Boolean)
        .join(' · ');
    return line.length > REASON ? `${line.slice(0, REASON)}…` : line;
}

/** @param {string} id */
function unknown(id) {
    return empty(
        'No such job',
        html`Neither the queue nor history knows <code>${id}</code>. It may have been
            removed. <a href=${href('/jobs', { q: id })}>Search all jobs.</a>`,
    );
}
