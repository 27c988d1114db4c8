// @ts-check
// Jobs that come by themselves: when next, in words and in both zones; pause, trigger, edit.

import { post, remove, segment } from '../lib/api.js';
import { cronInWords } from '../lib/cronwords.js';
import { duration, moment } from '../lib/format.js';
import { href } from '../lib/router.js';
import { resource } from '../lib/scope.js';
import { each, html } from '../lib/view.js';
import { action, attempt, confirm, empty, jobLink, loading, problemNote, when, zoneName } from '../lib/widgets.js';
import { bind } from '../lib/keys.js';
import { scheduleForm } from './schedules/form.js';

/**
 * @typedef {{ id: string, cron: string | null, tz: string | null, every_ms: number | null, paused: boolean, next: string[],
 *   job: { name: string, arguments: string[], data?: unknown, options: Record<string, unknown> },
 *   last_at: string | null, last_job: string | null, trouble?: string }} Schedule
 */

/** @type {import('../lib/router.js').Page} */
export default function schedules({ scope, query, title }) {
    title('Schedules');
    const list = resource(scope, () => ['/schedules'], { every: 5000 });
    const edit = async (/** @type {Schedule | null} */ schedule) => {
        if (await scheduleForm(scope, schedule)) await list.reload();
    };
    bind(scope, { n: ['Add a schedule', () => edit(null)] });

    return () => html`
        <div class="row between">
            <h1>Schedules</h1>
            ${() => action('Add a schedule', () => edit(null), { kind: 'primary', title: 'n' })}
        </div>
        ${() => problemNote(list.error.value, list.data.value !== null)}
        ${() => (list.data.value ? rows(list.data.value.items) : list.error.value ? null : loading)}`;

    /** @param {Schedule[]} items */
    function rows(items) {
        if (!items.length) {
            return empty('No schedule yet', 'A schedule brings jobs at the times of a cron expression, or every so often.',
                'jobber schedule add hello --cron "30 2 * * *" --tz Europe/Berlin');
        }
        return html`<div class="stack">${each(items, (s) => s.id, row)}</div>`;
    }

    /** @param {Schedule} schedule */
    function row(schedule) {
        const isOpen = query.get('open') === schedule.id;
        return html`<section class="panel" aria-label="Schedule ${schedule.id}">
            <div class="row between">
                <div class="row">
                    <h2>${schedule.id}</h2>
                    ${schedule.paused ? html`<span class="state cancelled"><span aria-hidden="true">⊘</span> paused</span>` : null}
                </div>
                <div class="row">
                    ${action('Run now', () => trigger(schedule))}
                    ${schedule.paused ? action('Resume', () => act(schedule, 'resume', 'Its jobs come again')) : action('Pause', () => act(schedule, 'pause', 'Paused'))}
                    ${action('Edit', () => edit(schedule))}
                    ${action('Remove', () => take(schedule), { kind: 'danger' })}
                </div>
            </div>
            ${schedule.trouble ? html`<div class="note warn"><strong>No job will come:</strong> ${schedule.trouble}</div>` : null}
            <dl class="facts">
                <dt>When</dt><dd>${timing(schedule)}</dd>
                <dt>Job</dt><dd><a href=${href('/jobs', { name: schedule.job.name })}>${schedule.job.name}</a> <code>${schedule.job.arguments.join(' ')}</code></dd>
                <dt>Next</dt><dd>${schedule.next.length ? html`${when(schedule.next[0])}, ${moment(schedule.next[0])}` : 'none while it is paused'}</dd>
                <dt>Last</dt><dd>${schedule.last_at ? html`${when(schedule.last_at)}${schedule.last_job ? html`: ${jobLink(schedule.last_job)}` : null}` : 'never'}</dd>
            </dl>
            ${schedule.next.length ? html`<details open=${isOpen} @toggle=${(/** @type {Event} */ e) => toggle(schedule, e)}>
                <summary>Its next ${schedule.next.length} times</summary>
                ${nextTimes(schedule)}
            </details>` : null}
        </section>`;
    }

    /** @param {Schedule} schedule @param {Event} event */
    function toggle(schedule, event) {
        const isOpen = /** @type {HTMLDetailsElement} */ (event.target).open;
        if (isOpen) query.set({ open: schedule.id });
        else if (query.get('open') === schedule.id) query.set({ open: null });
    }

    /** @param {Schedule} schedule */
    async function trigger(schedule) {
        const job = await attempt(() => post(`/schedules/${segment(schedule.id)}:trigger`), 'The job is queued');
        if (job) await list.reload();
    }

    /** @param {Schedule} schedule @param {string} verb @param {string} done */
    async function act(schedule, verb, done) {
        await attempt(() => post(`/schedules/${segment(schedule.id)}:${verb}`), done);
        await list.reload();
    }

    /** @param {Schedule} schedule */
    async function take(schedule) {
        if (!(await confirm('Remove this schedule?', `No more jobs of ${schedule.id} will come. Jobs that have come stay.`, 'Remove'))) return;
        await attempt(() => remove(`/schedules/${segment(schedule.id)}`), 'Removed');
        await list.reload();
    }
}

/** @param {Schedule} schedule */
function timing({ cron, tz, every_ms: every }) {
    if (every !== null) return `every ${duration(every)}`;
    const words = cronInWords(cron ?? '');
    return html`${words ? `${words} (${tz ?? 'UTC'}) ` : null}<code>${cron}</code>${words ? null : ` ${tz ?? 'UTC'}`}`;
}

/** The next times in the schedule's own zone and in the user's. @param {Schedule} schedule */
function nextTimes({ next, tz }) {
    const own = tz ?? 'UTC';
    const both = own !== zoneName();
    return html`<div class="scroll" tabindex="0" role="region" aria-label="Next times"><table>
        <thead><tr><th scope="col">In</th><th scope="col">${own}</th>${both ? html`<th scope="col">${zoneName()}</th>` : null}</tr></thead>
        <tbody>${next.map((at) => html`<tr><td>${when(at)}</td><td>${moment(at, own)}</td>${both ? html`<td>${moment(at)}</td>` : null}</tr>`)}</tbody>
    </table></div>`;
}
