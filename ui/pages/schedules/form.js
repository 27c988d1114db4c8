// @ts-check
// Adds a schedule, or changes one.

import { get, put, segment } from '../../lib/api.js';
import { cronInWords } from '../../lib/cronwords.js';
import { signal } from '../../lib/signals.js';
import { html } from '../../lib/view.js';
import { dialog, problemNote, toast } from '../../lib/widgets.js';

/** The names that the browser knows; the server knows others too. */
const ZONES = Intl.supportedValuesOf('timeZone');

/** @param {FormData} form @param {string} name */
const text = (form, name) => String(form.get(name) ?? '').trim();

/**
 * Asks for a schedule and puts it in place.
 * @param {import('../../lib/scope.js').Scope} scope
 * @param {import('../schedules.js').Schedule | null} schedule null adds one
 * @returns {Promise<boolean>} whether it is in place
 */
export async function scheduleForm(scope, schedule) {
    const problem = signal(/** @type {any} */ (null));
    const kind = signal(schedule?.every_ms ? 'every' : 'cron');
    const cron = signal(schedule?.cron ?? '30 2 * * *');
    const binaries = signal(/** @type {string[]} */ ([]));
    // Names only help to write one; the form works without them.
    get('/binaries', {}, scope.signal).then((answer) => {
        binaries.value = answer.items.map((/** @type {{ name: string }} */ b) => b.name);
    }, () => {});
    const job = schedule?.job;

    /** @param {SubmitEvent} event @param {(done: boolean | null) => void} close */
    const submit = async (event, close) => {
        event.preventDefault();
        const form = new FormData(/** @type {HTMLFormElement} */ (event.target));
        try {
            const id = schedule?.id ?? (text(form, 'id') || text(form, 'name'));
            await put(`/schedules/${segment(id)}`, body(form, kind.peek()));
            toast(`Schedule ${id} is in place`);
            close(true);
        } catch (error) {
            problem.value = error;
        }
    };

    const done = await dialog(schedule ? `Schedule ${schedule.id}` : 'A new schedule', (close) => () => html`
        <form class="stack" @submit=${(/** @type {SubmitEvent} */ e) => submit(e, close)}>
            ${schedule ? null : html`<label>Id <input name="id" pattern="[A-Za-z0-9][A-Za-z0-9._\\-]*" maxlength="128" placeholder="the job's name">
                <span class="hint">Letters, digits, “.”, “_” and “-”. A schedule of the same id is replaced.</span></label>`}
            <fieldset class="row">
                <legend>When</legend>
                ${[['cron', 'at the times of a cron expression'], ['every', 'every so often']].map(([value, words]) => html`
                    <label class="inline"><input type="radio" name="kind" value=${value} .checked=${kind.value === value}
                        @change=${() => { kind.value = value; }}> ${words}</label>`)}
            </fieldset>
            ${kind.value === 'cron' ? html`<div class="fields">
                <label>Cron expression <input name="cron" class="mono" required .value=${cron.peek()}
                    @input=${(/** @type {Event} */ e) => { cron.value = /** @type {HTMLInputElement} */ (e.target).value; }}>
                    <span class="hint" aria-live="polite">${() => cronInWords(cron.value) ?? 'minute, hour, day, month, weekday'}</span></label>
                <label>Time zone <input name="tz" list="zones" .value=${schedule?.tz ?? 'UTC'}></label>
                <datalist id="zones">${ZONES.map((zone) => html`<option value=${zone}></option>`)}</datalist>
            </div>` : html`<label>Seconds between two jobs
                <input name="every" type="number" min="1" step="0.001" required .value=${String((schedule?.every_ms ?? 60_000) / 1000)}></label>`}
            <label>Binary <input name="name" list="binaries" required .value=${job?.name ?? ''}></label>
            <datalist id="binaries">${binaries.value.map((name) => html`<option value=${name}></option>`)}</datalist>
            <label>Arguments, one a line <textarea name="arguments" rows="2">${job?.arguments.join('\n') ?? ''}</textarea></label>
            <label>Data (JSON for its standard input) <textarea name="data" rows="2">${job?.data === undefined || job.data === null ? '' : JSON.stringify(job.data, null, 2)}</textarea></label>
            <details><summary>Options</summary>
                <label>Options as JSON <textarea name="options" rows="5">${job ? JSON.stringify(job.options, null, 2) : '{}'}</textarea>
                    <span class="hint">attempts, backoff, priority, timeout_ms, memory_bytes, cores, nice …</span></label>
            </details>
            ${() => problemNote(problem.value)}
            <div class="row end"><button type="button" @click=${() => close(null)}>Cancel</button><button class="primary">Save</button></div>
        </form>`);
    return done === true;
}

/** @param {FormData} form @param {string} kind */
function body(form, kind) {
    const when = kind === 'cron'
        ? { cron: text(form, 'cron'), tz: text(form, 'tz') || 'UTC' }
        : { every_ms: Math.round(Number(text(form, 'every')) * 1000) };
    const data = text(form, 'data');
    return {
        ...when,
        job: {
            ...parse(text(form, 'options') || '{}', 'Options'),
            name: text(form, 'name'),
            arguments: text(form, 'arguments').split('\n').filter((line) => line !== ''),
            ...(data ? { data: parse(data, 'Data') } : {}),
        },
    };
}

/** @param {string} json @param {string} what */
function parse(json, what) {
    try {
        return JSON.parse(json);
    } catch (error) {
        throw new Error(`${what}: ${/** @type {Error} */ (error).message}`);
    }
}
