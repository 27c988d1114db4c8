// @ts-check
// The form of a new job, empty or filled in from another (`?clone=ID`); with the same as a command and as a request.

import { Problem, get, mayAct, post, segment, session } from '../lib/api.js';
import { count } from '../lib/format.js';
import { go, href } from '../lib/router.js';
import { computed, signal } from '../lib/signals.js';
import { html } from '../lib/view.js';
import { copyable, jobLink, loading, problemNote, toast } from '../lib/widgets.js';
import { POINTERS, build, command, curl, draftOf, fieldAt, isRounded } from './submit/draft.js';

/** @type {import('../lib/router.js').Page} */
export default function submit({ scope, query, title }) {
    const clone = query.get('clone');
    title(clone ? 'Clone a job' : 'Submit a job');
    const draft = signal(/** @type {import('./submit/draft.js').Draft} */ ({ name: query.get('name') }));
    const built = computed(() => build(draft.value));
    /** What the server found, by field. */
    const found = signal(/** @type {Record<string, string>} */ ({}));
    /** Fields that the user has left, or all after an attempt to submit: only they are told to be wrong. */
    const left = signal(/** @type {Set<string>} */ (new Set()));
    const problem = signal(/** @type {Problem | null} */ (null));
    const isBusy = signal(false);
    const isLoading = signal(Boolean(clone));
    const note = signal('');
    const names = signal(/** @type {any[]} */ ([]));
    /** @type {HTMLFormElement | null} */
    let form = null;

    get('/binaries', {}, scope.signal).then(
        (answer) => {
            names.value = answer.items;
        },
        () => {
            // The name can be written without a list to choose from.
        },
    );
    if (clone) {
        get(`/jobs/${segment(clone)}`, {}, scope.signal)
            .then(
                (job) => {
                    draft.value = draftOf(job);
                    if (isRounded(job.data))
                        note.value =
                            'The data has numbers that a browser rounds. Compare them with the job before you submit.';
                },
                (error) => {
                    if (!scope.signal.aborted) problem.value = error;
                },
            )
            .finally(() => {
                isLoading.value = false;
            });
    }

    /** @param {string} field @param {string} value */
    const change = (field, value) => {
        draft.value = { ...draft.peek(), [field]: value };
        if (found.peek()[field]) found.value = { ...found.peek(), [field]: '' };
    };
    /** The error at a field. @param {string} field */
    const errorAt = (field) => found.value[field] || (left.value.has(field) ? built.value.errors[field] : '') || '';

    let key = '';
    let keyOf = '';
    /** A submission that is repeated because its answer was lost must not be a second job. @param {string} text */
    const keyFor = (text) => {
        if (text !== keyOf)
            key = [...crypto.getRandomValues(new Uint8Array(16))].map((b) => b.toString(16).padStart(2, '0')).join('');
        keyOf = text;
        return key;
    };

    const send = async (/** @type {Event} */ event) => {
        event.preventDefault();
        if (isBusy.peek()) return;
        left.value = new Set(Object.keys(POINTERS));
        const { text, errors } = built.value;
        if (Object.keys(errors).length) return showError(Object.keys(errors));
        isBusy.value = true;
        problem.value = null;
        try {
            const answer = await post('/jobs', text, {
                headers: { 'Idempotency-Key': keyFor(text) },
                signal: scope.signal,
            });
            if (answer.array) {
                const { array } = answer;
                toast(answer.duplicate ? 'These jobs were there already' : `${count(array.count)} jobs submitted`);
                go(href(`/groups/${segment(array.group)}`));
            } else {
                toast(answer.duplicate ? 'This job was there already' : 'Submitted');
                go(href(`/jobs/${segment(answer.id)}`));
            }
        } catch (error) {
            if (scope.signal.aborted) return;
            if (!(error instanceof Problem)) throw error;
            refuse(error);
        } finally {
            isBusy.value = false;
        }
    };
    /** Shows each error at its field, and the others above the form. @param {Problem} error */
    const refuse = (error) => {
        const single = /^(\/\S+): ([^]*)$/.exec(error.message);
        const errors = error.errors.length ? error.errors : single ? [{ pointer: single[1], detail: single[2] }] : [];
        /** @type {Record<string, string>} */
        const at = {};
        for (const { pointer, detail } of errors) {
            const field = fieldAt(pointer);
            // An element of a list is named by its place.
            const place = /\/(\d+)$/.exec(pointer);
            if (field)
                at[field] = [at[field], place ? `Number ${Number(place[1]) + 1}: ${detail}` : detail]
                    .filter(Boolean)
                    .join('; ');
        }
        found.value = at;
        if (Object.keys(at).length < errors.length || !errors.length) problem.value = error;
        showError(Object.keys(at));
    };
    /** @param {string[]} fields */
    const showError = (fields) => {
        requestAnimationFrame(() => {
            const wrong = [...(form?.elements ?? [])].find((e) =>
                fields.includes(/** @type {HTMLInputElement} */ (e).name),
            );
            const fold = wrong?.closest('details');
            if (fold) fold.open = true;
            if (wrong instanceof HTMLElement) wrong.focus();
        });
    };

    /**
     * @param {string} field @param {string} label
     * @param {{ hint?: string, type?: string, rows?: number, list?: string, placeholder?: string,
     *   mono?: boolean }} [options]
     */
    const input =
        (field, label, { hint, type = 'text', rows, list, placeholder, mono } = {}) =>
        () => {
            const error = errorAt(field);
            const about =
                [hint ? `hint-${field}` : '', error ? `error-${field}` : ''].filter(Boolean).join(' ') || null;
            const typed = (/** @type {any} */ event) => change(field, event.target.value);
            const leave = () => {
                left.value = new Set([...left.peek(), field]);
            };
            const value = draft.value[field] ?? '';
            return html`<div class="field">
            <label for="field-${field}">${label}</label>
            ${
                rows
                    ? html`<textarea id="field-${field}" name=${field} rows=${rows} spellcheck="false"
                        placeholder=${placeholder ?? null} .value=${value}
                    aria-invalid=${error ? 'true' : null} aria-describedby=${about} @input=${typed}
                        @blur=${leave}></textarea>`
                    : html`<input id="field-${field}" name=${field} type=${type} class=${mono ? 'mono' : ''}
                        list=${list ?? null} placeholder=${placeholder ?? null} .value=${value}
                    autocomplete="off" spellcheck="false" aria-invalid=${error ? 'true' : null}
                        aria-describedby=${about} @input=${typed} @blur=${leave}>`
            }
            ${hint ? html`<span class="hint" id="hint-${field}">${hint}</span>` : null}
            ${error ? html`<span class="field-error" id="error-${field}">${error}</span>` : null}
        </div>`;
        };
    const choice =
        (/** @type {string} */ field, /** @type {string} */ label, /** @type {string[][]} */ options) =>
        () => html`<div class="field">
        <label for="field-${field}">${label}</label>
        <select id="field-${field}" name=${field}
            @change=${(/** @type {any} */ e) => change(field, e.target.value)}>${options.map(
            ([value, text]) => html`
            <option value=${value} .selected=${(draft.value[field] ?? '') === value}>${text}</option>`,
        )}</select>
        ${() => (errorAt(field) ? html`<span class="field-error">${errorAt(field)}</span>` : null)}
    </div>`;
    const trouble = () => {
        const chosen = names.value.find((b) => b.name === draft.value.name?.trim());
        return chosen?.trouble ? html`<p class="note warn">${chosen.name} can't run: ${chosen.trouble}</p>` : null;
    };

    // Data is checked while it is typed; the other fields when they are left.
    left.value = new Set(['data']);
    const parts = {
        name: input('name', 'Program', { list: 'binaries', hint: 'A binary of the jobs directory.' }),
        arguments: input('arguments', 'Arguments', { rows: 4, hint: 'One a line, without quotes.' }),
        data: input('data', 'Data', {
            rows: 6,
            hint: 'JSON, which the program reads from its standard input.',
            placeholder: '{"width": 800}',
        }),
        attempts: input('attempts', 'Attempts', { type: 'number', hint: 'How many may finish badly, 1 to 1000.' }),
        delay: input('delay', 'Delay', { hint: 'Not before: 90s, 15m, 1h 30m.' }),
        priority: input('priority', 'Priority', { type: 'number', hint: 'None is first, then 1 before 2.' }),
        queue: input('queue', 'Queue', { hint: 'The default one if empty.' }),
        array: input('array', 'Array', { hint: 'A job for each index: 0-99, or 0-99%4 for 4 at once.' }),
        group: input('group', 'Group', { hint: 'Jobs that are looked at and cancelled as one.' }),
        group_limit: input('group_limit', 'Limit of its group', {
            type: 'number',
            hint: 'It starts while fewer jobs of its group run.',
        }),
        timeout: input('timeout', 'Timeout', { hint: 'Stops an attempt that runs longer.' }),
        backoff: choice('backoff', 'Backoff', [
            ['', 'as configured'],
            ['exponential', 'exponential'],
            ['fixed', 'fixed'],
        ]),
        backoff_delay: input('backoff_delay', 'First wait', { hint: 'Between attempts; 1s if empty.' }),
        backoff_max: input('backoff_max', 'Longest wait', { hint: 'A day if empty.' }),
        jitter: input('jitter', 'Chance', { hint: 'The part of the wait left to chance, 0 to 1.' }),
        grace: input('grace', 'Grace', { hint: 'Between SIGTERM and SIGKILL.' }),
        memory: input('memory', 'Memory', { hint: 'The limit: 512MiB, 2GiB.' }),
        cores: input('cores', 'Cores', { type: 'number', hint: 'CPU cores that it runs on.' }),
        require: input('require', 'Labels', { hint: 'That its worker must have: zone=eu, disk=ssd.' }),
        resources: input('resources', 'Resources', { hint: 'That it holds while it runs: gpu=1.' }),
        nice: input('nice', 'Nice', { type: 'number', hint: '0 to 19; 19 yields most.' }),
        no_retry: input('no_retry', 'Exit codes without another attempt', { hint: 'Such as 2, 64.' }),
        id: input('id', 'Id', { mono: true, hint: 'Your own, so that a second submission finds the first.' }),
        key: input('key', 'Deduplication key', {
            mono: true,
            hint: 'While the key is taken, the job that took it is the answer.',
        }),
        ttl: input('ttl', 'The key stays taken for', { hint: 'Until the job has ended if empty.' }),
        after: input('after', 'After', { rows: 2, hint: 'Ids of jobs that must complete before, one a line.' }),
    };

    return () => html`
        <h1>${clone ? 'Clone and edit' : 'Submit a job'}</h1>
        ${clone ? html`<p class="muted">Filled in from ${jobLink(clone)}. Its id, its deduplication and the jobs
            it waited for are left out.</p>` : null}
        ${() => problemNote(problem.value)}
        ${() => (note.value ? html`<p class="note warn">${note.value}</p>` : null)}
        ${() => (session.value && !mayAct() ? html`<p
            class="note warn">You are signed in to look only, so you can't submit. The command below
            works with the operator's token.</p>` : null)}
        ${() => (isLoading.value ? loading : null)}
        <form class="stack" novalidate @submit=${send} ref=${(/** @type {any} */ e) => {
            form = e;
        }}>
            <section class="panel" aria-label="The job">
                <div class="fields">${parts.name}</div>
                ${trouble}
                <div class="grid2">
                    <div class="stack">${parts.arguments}
                        ${() => html`<label class="inline"><input type="checkbox"
                            .checked=${draft.value.list === 'json'}
                            @change=${(/** @type {any} */ e) => asList(e.target)}> as a JSON list,
                            for arguments with line breaks</label>`}</div>
                    ${parts.data}
                </div>
                <div class="fields">${parts.attempts}${parts.delay}${parts.priority}${parts.queue}${parts.timeout}</div>
            </section>
            <details class="panel advanced"><summary>More options</summary>
                <div class="fields">${parts.backoff}${parts.backoff_delay}${parts.backoff_max}${parts.jitter}
                    ${parts.grace}${parts.array}${parts.group}${parts.group_limit}
                    ${parts.memory}${parts.cores}${parts.require}${parts.resources}${parts.nice}${parts.no_retry}
                    ${parts.id}${parts.key}${parts.ttl}${parts.after}</div>
            </details>
            <p class="muted small">What is empty is decided by the configuration.</p>
            <datalist id="binaries">${() => names.value.map((b) => html`<option value=${b.name}>${b.trouble
                ? `can't run: ${b.trouble}` : ''}</option>`)}</datalist>
            <div class="row">${() => (mayAct() ? html`<button class="primary" disabled=${isBusy.value}>${isBusy.value
                ? 'Submitting …' : 'Submit'}</button>` : null)}</div>
        </form>
        <section class="panel" aria-labelledby="same">
            <h2 id="same">The same elsewhere</h2>
            ${() => elsewhere()}
        </section>`;

    function elsewhere() {
        const { command: line, lacks } = command(built.value, draft.value);
        const by = session.value?.signed_in_by;
        return html`
            <h3>Command line</h3>${copyable(line)}
            ${lacks.length ? html`<p class="muted small">The command can't say ${lacks.join(' and ')}.</p>` : null}
            <h3>HTTP</h3>${copyable(curl(built.value, by === 'token' || by === 'cookie'))}`;
    }

    /** Writes the arguments anew, as a list or one a line. @param {HTMLInputElement} box */
    function asList(box) {
        const isList = box.checked;
        const list = built.value.body.arguments ?? [];
        if (!isList && list.some((/** @type {string} */ a) => a.includes('\n'))) {
            box.checked = true;
            toast('An argument has a line break, so they stay a list', true);
            return;
        }
        draft.value = {
            ...draft.peek(),
            list: isList ? 'json' : '',
            arguments: isList ? JSON.stringify(list, null, 2) : list.join('\n'),
        };
    }
}
